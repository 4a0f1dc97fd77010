// SPDX-License-Identifier: Apache-2.0

// What the programs share. Each has one function that is timed and, if it needs
// data first, one that prepares them outside the time. The timed one returns a
// checksum of its work, the same on every machine.
#ifndef BENCH_H
#define BENCH_H

#include <stddef.h>
#include <stdint.h>

#define MiB ((size_t)1 << 20)

// allocate returns zeroed memory whose pages are present, or ends the program.
void *allocate(size_t bytes);

// fail prints what went wrong and ends the program.
_Noreturn void fail(const char *what);

// next is a step of xorshift64*, our only source of chance.
static inline uint64_t next(uint64_t *seed) {
	uint64_t x = *seed;
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*seed = x;
	return x * 0x2545f4914f6cdd1dULL;
}

// mix adds a value to a checksum.
static inline uint64_t mix(uint64_t sum, uint64_t value) {
	return (sum ^ value) * 0x100000001b3ULL;
}

uint64_t int_core(void), interp(void), calls(void);
void sha256_setup(void);
uint64_t sha256(void);

void chase_setup(void), memcpy_setup(void), stream_setup(void);
uint64_t chase(void), copy(void), stream(void);

void fmatmul_setup(void), fmatmul_fma_setup(void);
uint64_t fmatmul(void), fmatmul_fma(void), nbody(void);

uint64_t forkexec(void), pingpong(void), getppid_loop(void), pagefault(void);

void gzip_setup(void), gunzip_setup(void);
uint64_t gzip(void), gunzip(void);

// The two directions of gzip.c; both return the bytes written to out.
size_t compress_gzip(const uint8_t *in, size_t n, uint8_t *out, size_t room, int depth);
size_t expand_gzip(const uint8_t *in, size_t n, uint8_t *out, size_t room);

#endif
