// SPDX-License-Identifier: Apache-2.0

// What guests for tests have in common: entry, interrupts, the console, virtio
// queues and requests to the disk. TICK is the time between timer interrupts.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

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
volatile u8 wish; // q or r, typed; q also if the power button was pressed

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

static void pressed(void);

// external serves one interrupt of the PLIC: 1 to 9 virtio, the last of them the
// power button's; 10 UART, 11 RTC.
static void external(void)
{
	u32 irq = W(PLIC + 0x200004);
	if (irq >= 1 && irq <= 9)
		W(VIRTIO(irq - 1) + 0x64) = W(VIRTIO(irq - 1) + 0x60);
	if (irq == 9)
		pressed();
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
	u64 cause, hart, pc;
	asm volatile("csrr %0, mcause" : "=r"(cause));
	asm volatile("csrr %0, mhartid" : "=r"(hart));
	switch (cause) {
	case 1ul << 63 | 3:
		W(CLINT + 4 * hart) = 0;
		break;
	case 1ul << 63 | 7:
		ticks++;
		asm volatile("csrr %0, mepc" : "=r"(pc));
		mix(pc); // an instruction too late is another guest
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

volatile struct queue disk, rx, tx, rng, button;

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
	else if (kind == 4)
		attach(slot, 0, &rng);
	else if (kind == 18)
		attach(slot, 0, &button);
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

// The board's power button: virtio-input behind the last slot.
enum { BUTTON = 8, INPUT = 18, KEY = 1, POWER = 116 };
volatile struct { u16 type, code; u32 value; } keys[4];
u16 keys_seen;

static void heed_button(void)
{
	if (!probe(BUTTON, INPUT))
		return;
	for (int i = 0; i < 4; i++) {
		chain(&button, i, &keys[i], 8, 2);
		offer(&button, i);
	}
	W(VIRTIO(BUTTON) + 0x50) = 0;
}

static void pressed(void)
{
	for (; keys_seen != button.used.idx; keys_seen++) {
		u32 id = button.used.ring[keys_seen % SIZE].id;
		if (keys[id].type == KEY && keys[id].code == POWER && keys[id].value)
			wish = 'q';
		offer(&button, id);
	}
	W(VIRTIO(BUTTON) + 0x50) = 0;
}

enum { IN = 0, OUT = 1, FLUSH = 4 };
struct { u32 kind, reserved; u64 sector; } head[4];
volatile u8 status[4];

// ask puts a disk request into place i of four.
static void ask(int i, u32 kind, u64 sector, volatile u64 *data, u32 bytes)
{
	int d = 3 * i;
	head[i].kind = kind;
	head[i].sector = sector;
	status[i] = 0xff;
	chain(&disk, d, &head[i], 16, 1);
	if (data)
		chain(&disk, d + 1, data, bytes, kind == IN ? 3 : 1);
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
