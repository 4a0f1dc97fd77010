// SPDX-License-Identifier: Apache-2.0

// A filter around gzip.c for its test: "expand", or how many places to search for
// a match.
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fail(const char *what) {
	fprintf(stderr, "%s\n", what);
	exit(1);
}

int main(int argc, char **argv) {
	static uint8_t in[4 * MiB], out[4 * MiB];
	size_t n = fread(in, 1, sizeof in, stdin);
	if (argc != 2)
		fail("one argument");
	if (strcmp(argv[1], "expand") == 0)
		n = expand_gzip(in, n, out, sizeof out);
	else
		n = compress_gzip(in, n, out, sizeof out, atoi(argv[1]));
	return fwrite(out, 1, n, stdout) != n;
}
