// SPDX-License-Identifier: Apache-2.0

// A guest that serves a few keys over frames, as a small database does. A client
// has one request outstanding; it numbers them and repeats one until it is answered:
//
//	request  1+256×self client n op key value ………………………………………………………………………… checksum
//	answer   2+256×self client n op key value result output time boot seq len bytes×4 hash checksum
//
// Words are 8 bytes, little-endian. self is the last byte of the guest's MAC address. op 0 reads a key, 1 stores a value and gives the
// one before. An answer to a store leaves when the state, with the last request of
// each client, is on the disk and flushed: it is written to one of SLOTS places in
// turn, so that a torn write costs nothing, and read back from the newest whole one
// when the guest boots.
//
// As in TCP, each client has a stream of bytes: an answer carries the len bytes from
// seq on, and repeats them when the request is repeated. output counts all answers.
// boot is a random number of this boot. hash is of all that the guest has seen.

#ifndef TICK
#define TICK 200000 // 20 ms
#endif
#ifndef WORK
#define WORK 50
#endif
#include "board.h"

enum { KEYS = 8, CLIENTS = 8, SLOTS = 16, WORDS = 18, BUFFERS = 8 };

static struct {
	u64 lsn, keys[KEYS];
	struct { u64 n, op, key, value, result, seq, len; } last[CLIENTS];
} state;

static u64 boot, output, self;
static volatile u64 slot[128], back[128]; // of the disk: state, filler, checksum
struct frame { u8 net[12], dst[6], src[6], type[2], w[WORDS][8]; };
static volatile struct frame got[BUFFERS], sent[CLIENTS];
static u16 seen;
static u64 request[CLIENTS][6];
static u8 asked[CLIENTS], home[CLIENTS][6]; // where it asked from

static u64 checksum(volatile u64 *w, int n)
{
	u64 h = 0xcbf29ce484222325;
	for (int i = 0; i < n; i++)
		h = (h ^ w[i]) * 0x5851f42d4c957f2d + (h >> 31);
	return h;
}

// persist puts the state onto the disk.
static void persist(void)
{
	u64 *s = (u64 *)&state, n = sizeof state / 8;
	state.lsn++;
	for (u64 i = 0; i < 127; i++)
		slot[i] = i < n ? s[i] : state.lsn + i;
	slot[127] = checksum(slot, 127);
	u64 at = state.lsn % SLOTS * 2;
	do {
		ask(0, OUT, at, slot, 1024);
		ask(1, IN, at, back, 1024);            // runs behind the write
		ask(2, OUT, 2 * SLOTS, slot, 512);     // two that overlap, the second stays
		ask(3, OUT, 2 * SLOTS, slot + 64, 512);
	} while (!done(4));
	if (checksum(back, 127) != slot[127]) {
		put("read before the write\n");
		W(FINISHER) = 0x3333 | 2 << 16;
	}
	do
		ask(0, FLUSH, 0, 0, 0);
	while (!done(1));
	do
		ask(0, IN, 2 * SLOTS, back, 512);
	while (!done(1));
	if (back[0] != slot[64]) {
		put("writes changed places\n");
		W(FINISHER) = 0x3333 | 3 << 16;
	}
}

// recover finds the newest whole state.
static void recover(void)
{
	u64 *s = (u64 *)&state, n = sizeof state / 8;
	for (int i = 0; i < SLOTS; i++) {
		do
			ask(0, IN, 2 * i, back, 1024);
		while (!done(1));
		if (back[0] > state.lsn && back[127] == checksum(back, 127))
			for (u64 j = 0; j < n; j++)
				s[j] = back[j];
	}
	do
		ask(0, FLUSH, 0, 0, 0); // what was found may be in a cache only
	while (!done(1));
}

static volatile u64 random;

static u64 entropy(void)
{
	chain(&rng, 0, &random, 8, 2);
	offer(&rng, 0);
	W(VIRTIO(2) + 0x50) = 0;
	WAIT(rng.used.idx == rng.avail.idx);
	return random;
}

// receive notes requests whose checksum is right; what others send is nothing.
static int receive(void)
{
	int any = 0;
	u64 w[WORDS];
	for (; seen != rx.used.idx; seen++) {
		u32 id = rx.used.ring[seen % SIZE].id;
		for (int i = 0; i < WORDS; i++)
			w[i] = word(got[id].w[i]);
		if (got[id].type[0] == 0x88 && w[0] == (1 | self << 8) && w[1] < CLIENTS && w[WORDS - 1] == checksum(w, WORDS - 1)) {
			for (int i = 0; i < 6; i++)
				request[w[1]][i] = w[i], home[w[1]][i] = got[id].src[i];
			asked[w[1]] = any = 1;
			mix(w[5]);
		}
		offer(&rx, id);
	}
	W(VIRTIO(1) + 0x50) = 0;
	return any;
}

// serve carries out a request; it reports whether the state is to be stored.
static int serve(int c)
{
	u64 *r = request[c], key = r[4] % KEYS;
	if (r[2] <= state.last[c].n)
		return 0;
	u64 was = state.keys[key];
	if (r[3] == 1)
		state.keys[key] = r[5];
	state.last[c].n = r[2];
	state.last[c].op = r[3];
	state.last[c].key = key;
	state.last[c].value = r[5];
	state.last[c].result = was;
	state.last[c].seq += state.last[c].len;
	state.last[c].len = 8 + (hash >> 8) % 25;
	return r[3] == 1;
}

static void answer(int c)
{
	volatile struct frame *f = &sent[c];
	u64 w[WORDS] = {2 | self << 8, c, state.last[c].n, state.last[c].op, state.last[c].key, state.last[c].value, state.last[c].result,
		output++, now(), boot, state.last[c].seq, state.last[c].len};
	for (int i = 12; i < 16; i++)
		w[i] = (state.last[c].result + state.last[c].n * 31 + i) * 0x9e3779b97f4a7c15;
	w[16] = hash;
	w[17] = checksum(w, WORDS - 1);
	for (int i = 0; i < WORDS; i++)
		place(f->w[i], w[i]);
	f->type[0] = 0x88;
	f->type[1] = 0xb5;
	for (int i = 0; i < 6; i++) {
		f->dst[i] = home[c][i];
		f->src[i] = *(volatile u8 *)(VIRTIO(1) + 0x100 + i);
	}
	chain(&tx, c, f, sizeof *f, 0);
	offer(&tx, c);
}

static u64 field[4096]; // eight pages that the work dirties
static double sum = 1;

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
	*(volatile u8 *)(UART + 1) = 1;
	W(PLIC + 40) = 1;
	W(PLIC + 0x2000) = 1 << 10;
	probe(0, 2);
	probe(1, 1);
	probe(2, 4);
	D(CLINT + 0x4000) = now() + TICK;
	asm volatile("csrs mie, %0" ::"r"(0x888));
	self = *(volatile u8 *)(VIRTIO(1) + 0x105);
	boot = entropy();
	recover();
	for (int i = 0; i < BUFFERS; i++) {
		chain(&rx, i, &got[i], sizeof got[i], 2);
		offer(&rx, i);
	}
	W(VIRTIO(1) + 0x50) = 0;
	put("boot ");
	number(boot, 16, ' ');
	number(state.lsn, 10, '\n');
	for (u64 batch = 0;; batch++) {
		WAIT(seen != rx.used.idx || wish);
		if (wish == 'q')
			W(FINISHER) = 0x5555;
		for (u64 i = 1; i < HARTS; i++)
			W(CLINT + 4 * i) = 1; // harts that are not there don't mind
		if (!receive())
			continue;
		int stored = 0;
		for (int c = 0; c < CLIENTS; c++)
			if (asked[c])
				stored |= serve(c);
		work();
		if (stored)
			persist();
		if (batch % 8 == 0)
			mix(entropy());
		for (int c = 0; c < CLIENTS; c++)
			if (asked[c])
				answer(c);
		W(VIRTIO(1) + 0x50) = 1;
		WAIT(tx.used.idx == tx.avail.idx);
		for (int c = 0; c < CLIENTS; c++)
			asked[c] = 0;
		if (stored && state.lsn % 8 == 0) {
			number(state.lsn, 10, ' ');
			number(hash, 16, ' ');
			number(shared, 10, '\n');
		}
	}
}
