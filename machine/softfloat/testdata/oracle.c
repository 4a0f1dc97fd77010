// SPDX-License-Identifier: Apache-2.0
//
// Executes every floating-point instruction that package softfloat implements,
// in every static rounding mode, so that the test can compare. With an argument
// it prints the names of its operations, one per line, in order. Without, it
// reads records of operands on stdin and writes for each record and operation
// the result (8 bytes) and fflags (1 byte).
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static struct { double a, b, c; int64_t i; float s, t, u, pad; } in;

static unsigned char out[1 << 16], *end;

static void put(uint64_t result, uint64_t flags)
{
	memcpy(end, &result, 8);
	end[8] = flags;
	end += 9;
}

static void put_f(float r, uint64_t flags)
{
	uint32_t bits;
	memcpy(&bits, &r, 4);
	put(bits, flags);
}

static void put_d(double r, uint64_t flags)
{
	uint64_t bits;
	memcpy(&bits, &r, 8);
	put(bits, flags);
}

static int naming;

// RUN executes one instruction between clearing and reading fflags. The result
// is put by put_f, put_d or put.
#define RUN(put, type, reg, name, insn, ...)                                    \
	if (naming) {                                                           \
		puts(name);                                                     \
	} else {                                                                \
		type r;                                                         \
		uint64_t flags;                                                 \
		asm volatile("fsflags zero\n\t" insn "\n\tfrflags %1"           \
			     : "=&" reg(r), "=&r"(flags) : __VA_ARGS__);        \
		put(r, flags);                                                  \
	}

#define MODES(M, ...)                                                           \
	M("rne", __VA_ARGS__) M("rtz", __VA_ARGS__) M("rdn", __VA_ARGS__)       \
	M("rup", __VA_ARGS__) M("rmm", __VA_ARGS__)

#define ONE(rm, put, type, op, a)                                               \
	RUN(put, type, "f", op " " rm, op " %0,%2," rm, "f"(a))
#define TWO(rm, put, type, op, a, b)                                            \
	RUN(put, type, "f", op " " rm, op " %0,%2,%3," rm, "f"(a), "f"(b))
#define THREE(rm, put, type, op, a, b, c)                                       \
	RUN(put, type, "f", op " " rm, op " %0,%2,%3,%4," rm, "f"(a), "f"(b), "f"(c))
#define TO_INT(rm, op, a)                                                       \
	RUN(put, uint64_t, "r", op " " rm, op " %0,%2," rm, "f"(a))
#define FROM_INT(rm, put, type, op)                                             \
	RUN(put, type, "f", op " " rm, op " %0,%2," rm, "r"(in.i))

#define EXACT(put, type, reg, op, a)                                            \
	RUN(put, type, reg, op, op " %0,%2", a)
#define PAIR(put, type, reg, op, a, b)                                          \
	RUN(put, type, reg, op, op " %0,%2,%3", "f"(a), "f"(b))

#define WIDTH(put_x, type, w, a, b, c)                                          \
	MODES(TWO, put_x, type, "fadd." w, a, b)                                \
	MODES(TWO, put_x, type, "fsub." w, a, b)                                \
	MODES(TWO, put_x, type, "fmul." w, a, b)                                \
	MODES(TWO, put_x, type, "fdiv." w, a, b)                                \
	MODES(ONE, put_x, type, "fsqrt." w, a)                                  \
	MODES(THREE, put_x, type, "fmadd." w, a, b, c)                          \
	MODES(THREE, put_x, type, "fmsub." w, a, b, c)                          \
	MODES(THREE, put_x, type, "fnmadd." w, a, b, c)                         \
	MODES(THREE, put_x, type, "fnmsub." w, a, b, c)                         \
	PAIR(put_x, type, "f", "fmin." w, a, b)                                 \
	PAIR(put_x, type, "f", "fmax." w, a, b)                                 \
	PAIR(put, uint64_t, "r", "feq." w, a, b)                                \
	PAIR(put, uint64_t, "r", "flt." w, a, b)                                \
	PAIR(put, uint64_t, "r", "fle." w, a, b)                                \
	EXACT(put, uint64_t, "r", "fclass." w, "f"(a))                          \
	MODES(TO_INT, "fcvt.w." w, a)                                           \
	MODES(TO_INT, "fcvt.wu." w, a)                                          \
	MODES(TO_INT, "fcvt.l." w, a)                                           \
	MODES(TO_INT, "fcvt.lu." w, a)                                          \
	MODES(FROM_INT, put_x, type, "fcvt." w ".l")                            \
	MODES(FROM_INT, put_x, type, "fcvt." w ".lu")

static void doubles(void)
{
	WIDTH(put_d, double, "d", in.a, in.b, in.c)
	EXACT(put_d, double, "f", "fcvt.d.w", "r"(in.i))
	EXACT(put_d, double, "f", "fcvt.d.wu", "r"(in.i))
	EXACT(put_d, double, "f", "fcvt.d.s", "f"(in.s))
}

static void floats(void)
{
	WIDTH(put_f, float, "s", in.s, in.t, in.u)
	MODES(FROM_INT, put_f, float, "fcvt.s.w")
	MODES(FROM_INT, put_f, float, "fcvt.s.wu")
	MODES(ONE, put_f, float, "fcvt.s.d", in.a)
}

int main(int argc, char **argv)
{
	naming = argc > 1;
	if (naming) {
		doubles();
		floats();
		return 0;
	}
	while (fread(&in, sizeof in, 1, stdin) == 1) {
		end = out;
		doubles();
		floats();
		if (fwrite(out, end - out, 1, stdout) != 1)
			return 1;
	}
	return 0;
}
