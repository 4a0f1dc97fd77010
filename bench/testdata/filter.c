// SPDX-License-Identifier: Apache-2.0

// A filter around gzip.c for its test: compresses its input, or expands it if
// it has an argument.
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>

void fail(const char *what) {
	fprintf(stderr, "%s\n", what);
	exit(1);
}

int main(int argc, char **argv) {
	static uint8_t in[4 * MiB], out[4 * MiB];
	size_t n = fread(in, 1, sizeof in, stdin);
	(void)argv;
	n = argc > 1 ? expand_gzip(in, n, out, sizeof out) : compress_gzip(in, n, out, sizeof out, 32);
	return fwrite(out, 1, n, stdout) != n;
}
