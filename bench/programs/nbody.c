// SPDX-License-Identifier: Apache-2.0

// nbody: five bodies that attract each other; doubles, square roots, divisions.
// Only operations that IEEE 754 rounds exactly, so every machine agrees.
#include "bench.h"

#include <math.h>
#include <string.h>

enum { bodies = 5, steps = 2500000 };

struct body { double p[3], v[3], mass; };

static void step(struct body *w, double dt) {
	for (int i = 0; i < bodies; i++)
		for (int j = i + 1; j < bodies; j++) {
			double d[3], r2 = 0.01; // softened: no two ever collide
			for (int k = 0; k < 3; k++) {
				d[k] = w[i].p[k] - w[j].p[k];
				r2 += d[k] * d[k];
			}
			double pull = dt / (r2 * sqrt(r2));
			for (int k = 0; k < 3; k++) {
				w[i].v[k] -= d[k] * w[j].mass * pull;
				w[j].v[k] += d[k] * w[i].mass * pull;
			}
		}
	for (int i = 0; i < bodies; i++)
		for (int k = 0; k < 3; k++)
			w[i].p[k] += dt * w[i].v[k];
}

uint64_t nbody(void) {
	struct body w[bodies];
	uint64_t seed = 1, sum = 0, bits;
	for (int i = 0; i < bodies; i++) {
		for (int k = 0; k < 3; k++) {
			w[i].p[k] = (double)(next(&seed) >> 40) / (1 << 20) - 8;
			w[i].v[k] = (double)(next(&seed) >> 40) / (1 << 25) - 0.25;
		}
		w[i].mass = i == 0 ? 20 : 0.01 * (i + 1);
	}
	for (int i = 0; i < steps; i++)
		step(w, 1.0 / 1024);
	for (int i = 0; i < bodies; i++)
		for (int k = 0; k < 3; k++) {
			memcpy(&bits, &w[i].p[k], sizeof bits);
			sum = mix(sum, bits);
		}
	return sum;
}
