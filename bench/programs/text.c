// SPDX-License-Identifier: Apache-2.0

// gzip32M and gunzip32M: 32 MiB of words, some much more common than others, as
// in a text, compressed and expanded.
#include "bench.h"

#include <string.h>

enum { textSize = 32 * MiB, vocabulary = 4096, searches = 32 };

static uint8_t *text, *packed, *unpacked;
static size_t packedSize;

static void makeText(void) {
	static char words[vocabulary][12];
	uint64_t seed = 1;
	for (int i = 0; i < vocabulary; i++) {
		int n = 2 + (next(&seed) >> 32) % 9;
		for (int k = 0; k < n; k++)
			words[i][k] = "etaoinshrdlucmfwypvbgkjqxz"[((next(&seed) >> 32) % 26) * ((next(&seed) >> 32) % 27) / 27];
	}
	text = allocate(textSize);
	for (size_t at = 0; at < textSize;) {
		uint64_t r = next(&seed) >> 20;
		// The product of three uniform numbers prefers the small.
		uint64_t i = (r & 4095) * (r >> 12 & 4095) / 4096 * (r >> 24 & 4095) / 4096;
		for (const char *w = words[i]; *w && at < textSize; w++)
			text[at++] = *w;
		if (at < textSize)
			text[at++] = (r >> 36) % 12 == 0 ? '\n' : ' ';
	}
	packed = allocate(textSize);
}

void gzip_setup(void) { makeText(); }

uint64_t gzip(void) {
	packedSize = compress_gzip(text, textSize, packed, textSize, searches);
	uint64_t sum = packedSize;
	for (size_t i = 0; i < packedSize; i++)
		sum = mix(sum, packed[i]);
	return sum;
}

void gunzip_setup(void) {
	makeText();
	unpacked = allocate(textSize);
	packedSize = compress_gzip(text, textSize, packed, textSize, 4);
}

uint64_t gunzip(void) {
	size_t n = expand_gzip(packed, packedSize, unpacked, textSize);
	if (n != textSize || memcmp(text, unpacked, n) != 0)
		fail("gunzip32M: not what was compressed");
	return mix(packedSize, n);
}
