// SPDX-License-Identifier: Apache-2.0

// Programs of the caches and the memory behind them. What they work on is
// present before the time begins.
#include "bench.h"

#include <string.h>

enum { nodes = 64 * MiB / sizeof(uint32_t), hops = 8000000 };

static uint32_t *successor;

// chase_setup makes one cycle through all nodes (Sattolo's shuffle).
void chase_setup(void) {
	uint64_t seed = 1;
	successor = allocate(nodes * sizeof *successor);
	for (uint32_t i = 0; i < nodes; i++)
		successor[i] = i;
	for (uint32_t i = nodes - 1; i > 0; i--) {
		uint32_t j = (next(&seed) >> 32) * i >> 32, t = successor[i];
		successor[i] = successor[j];
		successor[j] = t;
	}
}

// chase64M: loads that wait for each other and miss every cache and TLB.
uint64_t chase(void) {
	uint32_t at = 0;
	uint64_t sum = 0;
	for (int i = 0; i < hops; i++)
		sum += at = successor[at];
	return sum;
}

static uint8_t *from, *to;

void memcpy_setup(void) {
	from = allocate(64 * MiB);
	to = allocate(64 * MiB);
	for (size_t i = 0; i < 64 * MiB; i++)
		from[i] = i * 167 >> 5;
}

// memcpy64M: the C library's copy.
uint64_t copy(void) {
	uint64_t sum = 0;
	for (int i = 0; i < 12; i++) {
		from[i] ^= 0x55;
		memcpy(to, from, 64 * MiB);
		sum = mix(sum, to[i] + to[64 * MiB - 1 - i]);
	}
	return sum;
}

enum { elements = 64 * MiB / sizeof(double) };

static double *a, *b, *c;

void stream_setup(void) {
	double **arrays[] = {&a, &b, &c};
	for (int i = 0; i < 3; i++) {
		double *p = *arrays[i] = allocate(64 * MiB);
		for (size_t j = 0; j < elements; j++)
			p[j] = 1 + (double)(j & 255) / 256;
	}
}

// stream64M: the four loops of STREAM (copy, scale, add, triad).
uint64_t stream(void) {
	for (int round = 0; round < 8; round++) {
		for (size_t i = 0; i < elements; i++)
			c[i] = a[i];
		__asm__ volatile("" ::: "memory"); // the loops stay apart
		for (size_t i = 0; i < elements; i++)
			b[i] = 0.75 * c[i];
		__asm__ volatile("" ::: "memory");
		for (size_t i = 0; i < elements; i++)
			c[i] = a[i] + b[i];
		__asm__ volatile("" ::: "memory");
		for (size_t i = 0; i < elements; i++)
			a[i] = b[i] + 0.5 * c[i];
		__asm__ volatile("" ::: "memory");
	}
	uint64_t sum = 0, bits;
	for (size_t i = 0; i < elements; i += 4099) {
		memcpy(&bits, &a[i], sizeof bits);
		sum = mix(sum, bits);
	}
	return sum;
}
