// SPDX-License-Identifier: Apache-2.0

// Programs of integers, branches and calls.
#include "bench.h"

#include <string.h>

static uint32_t crcBits(uint32_t crc, uint8_t byte) {
	crc ^= byte;
	for (int i = 0; i < 8; i++)
		crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
	return crc;
}

static uint32_t sieve(uint8_t *composite, uint32_t n) {
	uint32_t primes = 0;
	memset(composite, 0, n);
	for (uint32_t i = 2; i < n; i++) {
		if (composite[i])
			continue;
		primes++;
		for (uint64_t j = (uint64_t)i * i; j < n; j += i)
			composite[j] = 1;
	}
	return primes;
}

// int_core: shifts, multiplications, a remainder, byte stores; all in the caches.
uint64_t int_core(void) {
	static uint8_t composite[1 << 16];
	uint64_t sum = 0, lcg = 1;
	for (int round = 0; round < 28; round++) {
		uint32_t crc = ~0u;
		for (int i = 0; i < 1 << 20; i++) {
			lcg = lcg * 6364136223846793005ULL + 1442695040888963407ULL;
			crc = crcBits(crc, lcg >> 56);
			sum += (lcg >> 33) % ((uint32_t)i | 1);
		}
		sum = mix(sum, crc);
		for (int i = 0; i < 16; i++)
			sum = mix(sum, sieve(composite, sizeof composite - i));
	}
	return sum;
}

// SHA-256, FIPS 180-4 section 6.2.
static const uint32_t K[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256Block(uint32_t h[8], const uint8_t *p) {
	uint32_t w[64];
	for (int i = 0; i < 16; i++, p += 4)
		w[i] = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
	for (int i = 16; i < 64; i++) {
		uint32_t x = w[i - 15], y = w[i - 2];
		w[i] = w[i - 16] + (rotr(x, 7) ^ rotr(x, 18) ^ x >> 3) + w[i - 7] + (rotr(y, 17) ^ rotr(y, 19) ^ y >> 10);
	}
	uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], k = h[7];
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = k + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];
		uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
		k = g, g = f, f = e, e = d + t1;
		d = c, c = b, b = a, a = t1 + t2;
	}
	h[0] += a, h[1] += b, h[2] += c, h[3] += d;
	h[4] += e, h[5] += f, h[6] += g, h[7] += k;
}

static uint8_t *message;
enum { messageSize = 1 << 20, messageRounds = 256 };

void sha256_setup(void) {
	uint64_t seed = 1;
	message = allocate(messageSize);
	for (size_t i = 0; i < messageSize; i++)
		message[i] = next(&seed) >> 56;
}

// sha256: rotations and additions with much register pressure, in the caches.
uint64_t sha256(void) {
	uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	for (int round = 0; round < messageRounds; round++)
		for (size_t i = 0; i < messageSize; i += 64)
			sha256Block(h, message + i);
	return (uint64_t)h[0] << 32 | h[1];
}

// interp: a machine of registers whose program counts the steps of Collatz
// sequences: an indirect jump for each of its instructions.
enum op { MOVE, ADDI, MULI, ANDI, SHRI, BEQI, JUMP, HALT };

struct inst {
	uint8_t op, to, from;
	int32_t value, target;
};

static uint64_t interpret(const struct inst *code, uint64_t r[4]) {
	uint64_t count = 0;
	for (const struct inst *i = code;; count++)
		switch (i->op) {
		case MOVE: r[i->to] = r[i->from]; i++; break;
		case ADDI: r[i->to] = r[i->from] + i->value; i++; break;
		case MULI: r[i->to] = r[i->from] * i->value; i++; break;
		case ANDI: r[i->to] = r[i->from] & i->value; i++; break;
		case SHRI: r[i->to] = r[i->from] >> i->value; i++; break;
		case BEQI: i = r[i->from] == (uint64_t)i->value ? code + i->target : i + 1; break;
		case JUMP: i = code + i->target; break;
		case HALT: return count;
		}
}

uint64_t interp(void) {
	enum { start, number, steps, bit };
	static const struct inst code[] = {
		/* 0 */ {MOVE, number, start},
		/* 1 */ {BEQI, 0, number, 1, 10},
		/* 2 */ {ADDI, steps, steps, 1},
		/* 3 */ {ANDI, bit, number, 1},
		/* 4 */ {BEQI, 0, bit, 0, 8},
		/* 5 */ {MULI, number, number, 3},
		/* 6 */ {ADDI, number, number, 1},
		/* 7 */ {JUMP, .target = 1},
		/* 8 */ {SHRI, number, number, 1},
		/* 9 */ {JUMP, .target = 1},
		/* 10 */ {ADDI, start, start, -1},
		/* 11 */ {BEQI, 0, start, 0, 13},
		/* 12 */ {JUMP, .target = 0},
		/* 13 */ {HALT},
	};
	uint64_t r[4] = {100000};
	uint64_t count = interpret(code, r);
	return mix(count, r[steps]);
}

// calls: recursion, and calls through a table that the processor can't foresee.
#define NOINLINE __attribute__((noinline, noclone))

static NOINLINE uint32_t fib(uint32_t n) {
	if (n < 2)
		return n;
	uint32_t a = fib(n - 1);
	__asm__ volatile("" : "+r"(a)); // each call stays a call
	return a + fib(n - 2);
}

static NOINLINE uint64_t add(uint64_t x) { return x + 0x9e3779b9; }
static NOINLINE uint64_t xor(uint64_t x) { return x ^ x >> 7; }
static NOINLINE uint64_t mul(uint64_t x) { return x * 5; }
static NOINLINE uint64_t rot(uint64_t x) { return x << 9 | x >> 55; }

uint64_t calls(void) {
	static uint64_t (*const volatile table[])(uint64_t) = {add, xor, mul, rot};
	uint64_t sum = fib(36), seed = 1;
	for (int i = 0; i < 20000000; i++) {
		if ((i & 15) == 0)
			next(&seed);
		sum = table[seed >> (i & 15) * 2 & 3](sum);
	}
	return sum;
}
