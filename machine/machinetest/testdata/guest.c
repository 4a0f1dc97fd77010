// SPDX-License-Identifier: Apache-2.0

// A guest that uses every device and says what it does. In round n it writes n
// and a hash of all that it has seen to sector n, reads that back while the write
// is under way, flushes, sends n and the hash in a frame, waits for its echo or
// for a few ticks, and prints
//
//	n hash ticks shared
//
// So whoever compares disk, frames and console sees whether two copies of the
// guest went different ways. Typed bytes join the hash; q ends the guest, r resets it;
// the power button ends it too. When its disk has become larger it says so and writes
// to the new end.
//
// HOST_IN_FRAME puts tohost where only the network card writes. ROUNDS ends it by itself, 0 never; WORK is how much it computes in a round;
// TICK is the time between timer interrupts; PAUSE is how many it waits for; SECTORS
// is how many it writes to, round and round.

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

#include "board.h"

double sum = 1;
u64 field[4096]; // eight pages that the work dirties

volatile u64 out[64], in[64];

static void store(u64 n)
{
	for (int i = 0; i < 64; i++)
		out[i] = hash + i;
	out[0] = n;
	out[1] = hash;
	do {
		ask(0, OUT, n % SECTORS, out, 512);
		ask(1, IN, n % SECTORS, in, 512); // runs behind the write
	} while (!done(2));
	for (int i = 0; i < 64; i++)
		if (in[i] != out[i]) {
			put("read before the write\n");
			W(FINISHER) = 0x3333 | 2 << 16;
		}
	do
		ask(0, FLUSH, 0, 0, 0);
	while (!done(1));
	do
		ask(0, IN, (n ? n - 1 : 0) % SECTORS, in, 512);
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
	heed_button();
	D(CLINT + 0x4000) = now() + TICK;
	asm volatile("csrs mie, %0" ::"r"(0x888));
	u64 capacity = has_disk ? D(VIRTIO(0) + 0x100) : 0;
	for (u64 n = 0; !ROUNDS || n < ROUNDS; n++) {
		u64 t = ticks;
		if (has_disk && D(VIRTIO(0) + 0x100) != capacity) {
			capacity = D(VIRTIO(0) + 0x100);
			put("capacity ");
			number(capacity, 10, '\n');
			do // the last sector is there
				ask(0, OUT, capacity - 1, out, 512);
			while (!done(1));
		}
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
