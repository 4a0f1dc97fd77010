// SPDX-License-Identifier: Apache-2.0

// A guest that uses every device and says what it does. In round n it writes n
// and a hash of all that it has seen to sector n, reads that back while the write
// is under way, flushes, sends n and the hash in a frame, waits for its echo or
// for a few ticks, and prints
//
//	n hash ticks shared
//
// So whoever compares disk, frames and console sees whether two copies of the
// guest went different ways. Typed bytes join the hash; q ends the guest, r resets it.
//
// HOST_IN_FRAME puts tohost where only the network card writes. ROUNDS ends it by itself, 0 never; WORK is how much it computes in a round;
// TICK is the time between timer interrupts; PAUSE is how many it waits for; SECTORS
// is how many it writes to, round and round.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#ifndef ROUNDS
#define ROUNDS 0
#endif
#ifndef WORK
#define WORK 2000
#endif
#ifndef TICK
#define TICK 20000 // 2 ms
#endif
#ifndef PAUSE
#define PAUSE 1
#endif

#ifndef SECTORS
#define SECTORS 4096 // on which it writes
#endif
#define HARTS 8

#define W(a) (*(volatile u32 *)(u64)(a))
#define D(a) (*(volatile u64 *)(u64)(a))
#define FINISHER 0x100000
#define RTC 0x101000
#define CLINT 0x2000000
#define PLIC 0xc000000
#define UART 0x10000000
#define VIRTIO(slot) (0x10001000 + (slot) * 0x1000)

asm(".globl _start\n"
    "_start:\n"
    "	la sp, stacks\n"
    "	addi t0, a0, 1\n"
    "	slli t0, t0, 12\n"
    "	add sp, sp, t0\n"
    "	la t0, trap\n"
    "	csrw mtvec, t0\n"
    "	li t0, 0x6000\n" // floating point on
    "	csrs mstatus, t0\n"
    "	tail enter\n");

u8 stacks[HARTS][4096] __attribute__((aligned(16)));
volatile u64 ticks, alarms, hash = 0x9e3779b97f4a7c15, shared;
volatile u8 wish; // q or r, typed
double sum = 1;
u64 field[4096]; // eight pages that the work dirties

static void mix(u64 v) { hash = (hash ^ v) * 0x5851f42d4c957f2d + (hash >> 29); }

static u64 now(void)
{
	u64 t;
	asm volatile("rdtime %0" : "=r"(t));
	return t;
}

static void put(const char *s)
{
	for (; *s; s++)
		*(volatile u8 *)UART = *s;
}

static void number(u64 v, u64 base, char end)
{
	char b[32], *p = b + 31;
	*p = 0;
	*--p = end;
	do
		*--p = "0123456789abcdef"[v % base];
	while (v /= base);
	put(p);
}

// external serves one interrupt of the PLIC: 1 to 8 virtio, 10 UART, 11 RTC.
static void external(void)
{
	u32 irq = W(PLIC + 0x200004);
	if (irq >= 1 && irq <= 8)
		W(VIRTIO(irq - 1) + 0x64) = W(VIRTIO(irq - 1) + 0x60);
	else if (irq == 10)
		while (*(volatile u8 *)(UART + 5) & 1) {
			u8 key = *(volatile u8 *)UART;
			if (key == 'q' || key == 'r')
				wish = key;
			mix(key);
		}
	else if (irq == 11) {
		W(RTC + 0x1c) = 1;
		alarms++;
		mix(W(RTC));
	}
	if (irq)
		W(PLIC + 0x200004) = irq;
}

__attribute__((interrupt("machine"), aligned(4))) void trap(void)
{
	u64 cause, hart;
	asm volatile("csrr %0, mcause" : "=r"(cause));
	asm volatile("csrr %0, mhartid" : "=r"(hart));
	switch (cause) {
	case 1ul << 63 | 3:
		W(CLINT + 4 * hart) = 0;
		break;
	case 1ul << 63 | 7:
		ticks++;
		D(CLINT + 0x4000) = now() + TICK;
		break;
	case 1ul << 63 | 11:
		external();
		break;
	default:
		W(FINISHER) = 0x3333 | 99 << 16;
	}
}

// WAIT sleeps until a condition holds; an interrupt can't come between its test
// and the sleep.
#define WAIT(condition)                              \
	for (;;) {                                       \
		asm volatile("csrc mstatus, 8" ::: "memory"); \
		int holds = (condition);                     \
		if (!holds)                                  \
			asm volatile("wfi" ::: "memory");        \
		asm volatile("csrs mstatus, 8" ::: "memory"); \
		if (holds)                                   \
			break;                                   \
	}

// Split virtqueues of 16 descriptors.
#define SIZE 16
struct queue {
	struct { u64 addr; u32 len; u16 flags, next; } desc[SIZE];
	struct { u16 flags, idx, ring[SIZE], event; } avail;
	struct { u16 flags, idx; struct { u32 id, len; } ring[SIZE]; u16 event; } used __attribute__((aligned(4)));
} __attribute__((aligned(64)));

volatile struct queue disk, rx, tx;

static void attach(int slot, int n, volatile struct queue *q)
{
	u64 at = VIRTIO(slot);
	W(at + 0x30) = n;
	W(at + 0x38) = SIZE;
	W(at + 0x80) = (u64)&q->desc;
	W(at + 0x90) = (u64)&q->avail;
	W(at + 0xa0) = (u64)&q->used;
	W(at + 0x44) = 1;
}

static int probe(int slot, int kind)
{
	u64 at = VIRTIO(slot);
	if (W(at + 8) != kind)
		return 0;
	W(at + 0x70) = 0;
	W(at + 0x70) = 3;
	W(at + 0x24) = 0;
	W(at + 0x20) = kind == 2 ? 1 << 9 : 0; // FLUSH
	W(at + 0x24) = 1;
	W(at + 0x20) = 1; // VERSION_1
	W(at + 0x70) = 11;
	if (kind == 2)
		attach(slot, 0, &disk);
	else {
		attach(slot, 0, &rx);
		attach(slot, 1, &tx);
	}
	W(at + 0x70) = 15;
	W(PLIC + 4 * (slot + 1)) = 1;
	W(PLIC + 0x2000) |= 1 << (slot + 1);
	return 1;
}

static void chain(volatile struct queue *q, int i, volatile void *p, u32 len, u16 flags)
{
	q->desc[i].addr = (u64)p;
	q->desc[i].len = len;
	q->desc[i].flags = flags;
	q->desc[i].next = i + 1;
}

static void offer(volatile struct queue *q, int head)
{
	q->avail.ring[q->avail.idx % SIZE] = head;
	asm volatile("fence" ::: "memory");
	q->avail.idx++;
}

enum { IN = 0, OUT = 1, FLUSH = 4 };
struct { u32 kind, reserved; u64 sector; } head[4];
volatile u8 status[4];

// ask puts a disk request into place i of four.
static void ask(int i, u32 kind, u64 sector, volatile u64 *data)
{
	int d = 3 * i;
	head[i].kind = kind;
	head[i].sector = sector;
	status[i] = 0xff;
	chain(&disk, d, &head[i], 16, 1);
	if (data)
		chain(&disk, d + 1, data, 512, kind == IN ? 3 : 1);
	else
		disk.desc[d].next = d + 2;
	chain(&disk, d + 2, &status[i], 1, 2);
	offer(&disk, d);
}

// done kicks and waits for all that was asked; it reports whether nothing failed.
static int done(int n)
{
	W(VIRTIO(0) + 0x50) = 0;
	WAIT(disk.used.idx == disk.avail.idx);
	for (int i = 0; i < n; i++)
		if (status[i]) {
			put("disk error\n");
			return 0;
		}
	return 1;
}

volatile u64 out[64], in[64];

static void store(u64 n)
{
	for (int i = 0; i < 64; i++)
		out[i] = hash + i;
	out[0] = n;
	out[1] = hash;
	do {
		ask(0, OUT, n % SECTORS, out);
		ask(1, IN, n % SECTORS, in); // runs behind the write
	} while (!done(2));
	for (int i = 0; i < 64; i++)
		if (in[i] != out[i]) {
			put("read before the write\n");
			W(FINISHER) = 0x3333 | 2 << 16;
		}
	do
		ask(0, FLUSH, 0, 0);
	while (!done(1));
	do
		ask(0, IN, (n ? n - 1 : 0) % SECTORS, in);
	while (!done(1));
	if (in[0] != (n ? n - 1 : 0)) {
		put("a write is lost\n");
		W(FINISHER) = 0x3333 | 3 << 16;
	}
	mix(in[1]);
}

// Frames: a virtio-net header of 12 bytes, Ethernet, n and the hash.
struct frame { u8 net[12], dst[6], src[6], type[2]; u8 n[8], hash[8], pad[20]; };
volatile struct frame sent, got[4];
u16 seen;
#ifdef HOST_IN_FRAME // tohost is where a received frame has its n
asm(".globl tohost; .set tohost, got + 26");
#endif

static u64 word(volatile u8 *p)
{
	u64 v = 0;
	for (int i = 7; i >= 0; i--)
		v = v << 8 | p[i];
	return v;
}

static void place(volatile u8 *p, u64 v)
{
	for (int i = 0; i < 8; i++)
		p[i] = v >> 8 * i;
}

// receive takes frames; it reports whether one was the echo of n.
static int receive(u64 n)
{
	int echo = 0;
	for (; seen != rx.used.idx; seen++) {
		u32 id = rx.used.ring[seen % SIZE].id;
		u64 m = word(got[id].n);
		mix(m);
		mix(word(got[id].hash));
		echo |= m == n;
		offer(&rx, id);
	}
	W(VIRTIO(1) + 0x50) = 0;
	return echo;
}

static void exchange(u64 n)
{
	u64 until = ticks + 3;
	sent.type[0] = 0x88;
	sent.type[1] = 0xb5;
	for (int i = 0; i < 6; i++)
		sent.dst[i] = 2, sent.src[i] = i ? 7 : 2;
	place(sent.n, n);
	place(sent.hash, hash);
	chain(&tx, 0, &sent, sizeof sent, 0);
	offer(&tx, 0);
	W(VIRTIO(1) + 0x50) = 1;
	WAIT(tx.used.idx == tx.avail.idx && (receive(n) || ticks >= until));
}

static void work(void)
{
	for (u64 i = 0; i < WORK; i++) {
		sum = sum * 1.0000001 + 1.0 / (sum + i);
		field[(hash + i * 97) % 4096] += i;
	}
	mix((u64)sum ^ field[hash % 4096]);
}

// helper is what the other harts do: count to a number at every interrupt.
static void helper(void)
{
	asm volatile("csrs mie, %0" ::"r"(8));
	for (;;) {
		asm volatile("csrs mstatus, 8; wfi; csrc mstatus, 8" ::: "memory");
		for (int i = 0; i < 50; i++) {
			u64 v, failed;
			do
				asm volatile("lr.d %0, %2; addi %0, %0, 1; sc.d %1, %0, %2" : "=&r"(v), "=&r"(failed), "+A"(shared));
			while (failed);
		}
	}
}

void enter(u64 hart)
{
	if (hart)
		helper();
	put("boot\n");
	*(volatile u8 *)(UART + 1) = 1;
	W(PLIC + 40) = W(PLIC + 44) = 1;
	W(PLIC + 0x2000) = 3 << 10;
	W(RTC + 0x10) = 1;
	int has_disk = probe(0, 2), has_net = probe(1, 1);
	if (has_net) {
		for (int i = 0; i < 4; i++) {
			chain(&rx, i, &got[i], sizeof got[i], 2);
			offer(&rx, i);
		}
		W(VIRTIO(1) + 0x50) = 0;
	}
	D(CLINT + 0x4000) = now() + TICK;
	asm volatile("csrs mie, %0" ::"r"(0x888));
	for (u64 n = 0; !ROUNDS || n < ROUNDS; n++) {
		u64 t = ticks;
		for (u64 i = 1; i < HARTS; i++)
			W(CLINT + 4 * i) = 1; // harts that are not there don't mind
		work();
		mix(now());
		if (n % 4 == 0) {
			u64 at = W(RTC) | (u64)W(RTC + 4) << 32;
			at += 1000000; // 1 ms
			W(RTC + 0xc) = at >> 32;
			W(RTC + 8) = at;
		}
		if (has_disk)
			store(n);
		if (has_net)
			exchange(n);
		number(n, 10, ' ');
		number(has_disk ? out[1] : hash, 16, ' ');
		number(ticks, 10, ' ');
		number(shared, 10, '\n');
		WAIT(ticks >= t + PAUSE);
		if (wish == 'q')
			break;
		if (wish == 'r')
			W(FINISHER) = 0x7777;
	}
	put("bye\n");
	W(FINISHER) = 0x5555;
	for (;;)
		;
}
