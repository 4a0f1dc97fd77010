// SPDX-License-Identifier: Apache-2.0

// fmatmul256 and, compiled with FMA and the flags for the instruction,
// fmatmul256_fma: the product of two matrices of doubles.
#include "bench.h"

#include <string.h>

enum { N = 256 };

#ifdef FMA
#define fmatmul fmatmul_fma
#define fmatmul_setup fmatmul_fma_setup
#define MULADD(x, y, z) __builtin_fma(x, y, z)
#else
#define MULADD(x, y, z) ((x) * (y) + (z))
#endif

static double a[N][N], b[N][N], c[N][N];

void fmatmul_setup(void) {
	uint64_t seed = 1;
	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++) {
			a[i][j] = (double)(next(&seed) >> 11) / (1LL << 53);
			b[i][j] = (double)(next(&seed) >> 11) / (1LL << 53) - 0.5;
		}
}

uint64_t fmatmul(void) {
	uint64_t sum = 0, bits;
	for (int round = 0; round < 16; round++) {
		memset(c, 0, sizeof c);
		for (int i = 0; i < N; i++)
			for (int k = 0; k < N; k++)
				for (int j = 0; j < N; j++)
					c[i][j] = MULADD(a[i][k], b[k][j], c[i][j]);
		for (int i = 0; i < N; i++) {
			memcpy(&bits, &c[i][i], sizeof bits);
			sum = mix(sum, bits);
		}
		a[round][0] = c[0][0] / 64;
	}
	return sum;
}
