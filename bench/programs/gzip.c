// SPDX-License-Identifier: Apache-2.0

// A small gzip (RFC 1952) with deflate (RFC 1951): LZ77 over hash chains and
// Huffman codes of each block; and the way back for all block types.
#include "bench.h"

#include <string.h>

enum {
	literals = 286, distances = 30, lengths = 19, // sizes of the three alphabets, 3.2.5 and 3.2.7
	endOfBlock = 256, maxBits = 15,
	window = 1 << 15, minMatch = 3, maxMatch = 258,
	hashBits = 15, blockTokens = 1 << 15,
};

static const uint16_t lengthBase[29] = {3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t lengthExtra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t distBase[30] = {1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
static const uint8_t distExtra[30] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
static const uint8_t lengthOrder[lengths] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

static uint32_t crcTable[256];
static uint8_t lengthCode[maxMatch + 1], distCode[512]; // the latter: up to 256, then by 128

static void tables(void) {
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int k = 0; k < 8; k++)
			c = c >> 1 ^ (0xedb88320u & -(c & 1));
		crcTable[i] = c;
	}
	for (int code = 0; code < 29; code++)
		for (int i = lengthBase[code]; i <= maxMatch; i++)
			lengthCode[i] = code;
	for (int code = 0; code < 30; code++) {
		for (int i = distBase[code]; i <= 256; i++)
			distCode[i - 1] = code;
		if (distBase[code] > 256)
			memset(distCode + 256 + ((distBase[code] - 1) >> 7), code, 256 - ((distBase[code] - 1) >> 7));
	}
}

static uint32_t crc32(const uint8_t *p, size_t n) {
	uint32_t crc = ~0u;
	while (n--)
		crc = crc >> 8 ^ crcTable[(crc ^ *p++) & 255];
	return ~crc;
}

// ---- Compression.

struct writer {
	uint8_t *p, *end;
	uint64_t bits;
	int count;
};

static void put(struct writer *w, uint32_t value, int bits) {
	w->bits |= (uint64_t)value << w->count;
	for (w->count += bits; w->count >= 8; w->count -= 8, w->bits >>= 8) {
		if (w->p == w->end)
			fail("gzip: no room");
		*w->p++ = w->bits;
	}
}

static void flush(struct writer *w) {
	if (w->count > 0)
		put(w, 0, 8 - w->count);
}

struct code {
	uint16_t bits[literals];
	uint8_t length[literals];
};

// huffmanDepth gives each used symbol its depth in the tree; the deepest is returned.
static int huffmanDepth(const uint32_t *freq, int n, uint8_t *depth) {
	uint32_t weight[2 * literals];
	uint16_t order[literals], parent[2 * literals];
	uint8_t level[2 * literals];
	int used = 0;
	for (int i = 0; i < n; i++) {
		depth[i] = 0;
		if (freq[i] == 0)
			continue;
		int at = used++;
		for (; at > 0 && freq[order[at - 1]] > freq[i]; at--)
			order[at] = order[at - 1];
		order[at] = i;
	}
	for (int i = 0; i < used; i++)
		weight[i] = freq[order[i]];
	if (used < 2)
		fail("gzip: a tree of one leaf");
	// Leaves are sorted and inner nodes come sorted: the lightest two are at one of two heads.
	int leaf = 0, inner = used, made = used;
	while (made < 2 * used - 1) {
		weight[made] = 0;
		for (int k = 0; k < 2; k++) {
			int pick = leaf < used && (inner == made || weight[leaf] <= weight[inner]) ? leaf++ : inner++;
			weight[made] += weight[pick];
			parent[pick] = made;
		}
		made++;
	}
	int deepest = 0, root = made - 1;
	level[root] = 0;
	for (int i = root - 1; i >= 0; i--) {
		level[i] = level[parent[i]] + 1;
		if (level[i] > deepest)
			deepest = level[i];
	}
	for (int i = 0; i < used; i++)
		depth[order[i]] = level[i];
	return deepest;
}

// canonical numbers the codes (3.2.2), mirrored as they are written.
static void canonical(struct code *c, int n) {
	uint16_t count[maxBits + 1] = {0}, first[maxBits + 2] = {0};
	for (int i = 0; i < n; i++)
		count[c->length[i]]++;
	count[0] = 0;
	for (int i = 1; i <= maxBits; i++)
		first[i + 1] = (first[i] + count[i]) << 1;
	for (int i = 0; i < n; i++) {
		uint16_t code = first[c->length[i]]++, mirrored = 0;
		for (int k = 0; k < c->length[i]; k++)
			mirrored |= (code >> k & 1) << (c->length[i] - 1 - k);
		c->bits[i] = mirrored;
	}
}

// makeCode finds lengths of at most limit bits: flatter frequencies until it fits.
static void makeCode(struct code *c, uint32_t *freq, int n, int limit) {
	int used = 0;
	for (int i = 0; i < n; i++)
		used += freq[i] > 0;
	for (int i = 0; used < 2; i++) // a code of one symbol is no code
		if (freq[i] == 0) {
			freq[i] = 1;
			used++;
		}
	while (huffmanDepth(freq, n, c->length) > limit)
		for (int i = 0; i < n; i++)
			freq[i] = freq[i] ? freq[i] / 2 + 1 : 0;
	canonical(c, n);
}

// A token is a literal below 256, or a match: length << 16 | distance.
struct packer {
	struct writer w;
	uint32_t tokens[blockTokens];
	int count;
	uint32_t literalFreq[literals], distFreq[distances];
	int32_t head[1 << hashBits], chain[window];
};

static int codeOfDistance(int d) { return d <= 256 ? distCode[d - 1] : distCode[256 + ((d - 1) >> 7)]; }

static void writeCodes(struct writer *w, const struct code *lit, const struct code *dist) {
	struct code len;
	uint32_t freq[lengths] = {0};
	for (int i = 0; i < literals; i++)
		freq[lit->length[i]]++;
	for (int i = 0; i < distances; i++)
		freq[dist->length[i]]++;
	makeCode(&len, freq, lengths, 7);
	put(w, literals - 257, 5);
	put(w, distances - 1, 5);
	put(w, lengths - 4, 4);
	for (int i = 0; i < lengths; i++)
		put(w, len.length[lengthOrder[i]], 3);
	for (int i = 0; i < literals; i++)
		put(w, len.bits[lit->length[i]], len.length[lit->length[i]]);
	for (int i = 0; i < distances; i++)
		put(w, len.bits[dist->length[i]], len.length[dist->length[i]]);
}

static void writeBlock(struct packer *p, int last) {
	struct code lit, dist;
	struct writer *w = &p->w;
	p->literalFreq[endOfBlock]++;
	makeCode(&lit, p->literalFreq, literals, maxBits);
	makeCode(&dist, p->distFreq, distances, maxBits);
	put(w, last, 1);
	put(w, 2, 2);
	writeCodes(w, &lit, &dist);
	for (int i = 0; i < p->count; i++) {
		uint32_t t = p->tokens[i];
		if (t < 256) {
			put(w, lit.bits[t], lit.length[t]);
			continue;
		}
		int length = t >> 16, d = t & 0xffff, lc = lengthCode[length], dc = codeOfDistance(d);
		put(w, lit.bits[257 + lc], lit.length[257 + lc]);
		put(w, length - lengthBase[lc], lengthExtra[lc]);
		put(w, dist.bits[dc], dist.length[dc]);
		put(w, d - distBase[dc], distExtra[dc]);
	}
	put(w, lit.bits[endOfBlock], lit.length[endOfBlock]);
	p->count = 0;
	memset(p->literalFreq, 0, sizeof p->literalFreq);
	memset(p->distFreq, 0, sizeof p->distFreq);
}

static void emit(struct packer *p, uint32_t token) {
	if (p->count == blockTokens)
		writeBlock(p, 0);
	p->tokens[p->count++] = token;
	if (token < 256) {
		p->literalFreq[token]++;
	} else {
		p->literalFreq[257 + lengthCode[token >> 16]]++;
		p->distFreq[codeOfDistance(token & 0xffff)]++;
	}
}

static uint32_t hash3(const uint8_t *p) {
	return ((uint32_t)p[0] << 16 | p[1] << 8 | p[2]) * 0x9e3779b1u >> (32 - hashBits);
}

static void insert(struct packer *p, const uint8_t *in, size_t at) {
	uint32_t h = hash3(in + at);
	p->chain[at & (window - 1)] = p->head[h];
	p->head[h] = at;
}

// longest looks for the best match at a position, in at most depth places.
static uint32_t longest(const struct packer *p, const uint8_t *in, size_t at, size_t n, int depth) {
	int limit = n - at < maxMatch ? n - at : maxMatch, best = minMatch - 1;
	uint32_t token = 0;
	const uint8_t *here = in + at;
	for (int32_t i = p->head[hash3(here)]; i >= 0 && at - i < window && depth > 0; depth--) {
		const uint8_t *there = in + i;
		if (best < limit && there[best] == here[best] && there[0] == here[0]) {
			int l = 0;
			while (l < limit && there[l] == here[l])
				l++;
			if (l > best) {
				best = l;
				token = (uint32_t)l << 16 | (uint32_t)(at - i);
				if (l == limit)
					break;
			}
		}
		int32_t older = p->chain[i & (window - 1)];
		if (older >= i)
			break;
		i = older;
	}
	return token;
}

static void deflate(struct packer *p, const uint8_t *in, size_t n, int depth) {
	for (size_t at = 0; at < n;) {
		uint32_t token = 0;
		if (n - at > minMatch) {
			token = longest(p, in, at, n - 1, depth);
			insert(p, in, at);
		}
		if (token == 0) {
			emit(p, in[at++]);
			continue;
		}
		emit(p, token);
		for (size_t end = at++ + (token >> 16); at < end; at++)
			if (n - at > minMatch)
				insert(p, in, at);
	}
	writeBlock(p, 1);
	flush(&p->w);
}

size_t compress_gzip(const uint8_t *in, size_t n, uint8_t *out, size_t room, int depth) {
	static struct packer p;
	static const uint8_t header[10] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255};
	tables();
	memset(&p, 0, sizeof p);
	memset(p.head, -1, sizeof p.head);
	p.w = (struct writer){.p = out, .end = out + room};
	for (size_t i = 0; i < sizeof header; i++)
		put(&p.w, header[i], 8);
	deflate(&p, in, n, depth);
	uint32_t trailer[2] = {crc32(in, n), n};
	for (int i = 0; i < 8; i++)
		put(&p.w, trailer[i / 4] >> i % 4 * 8 & 255, 8);
	return p.w.p - out;
}

// ---- Expansion.

enum { fastBits = 10 };

struct reader {
	const uint8_t *p, *end;
	uint64_t bits;
	int count;
};

struct decoder {
	uint16_t fast[1 << fastBits]; // symbol << 4 | length, for codes of up to fastBits; else 0
	uint16_t count[maxBits + 1], symbol[320];
};

static void fill(struct reader *r) {
	while (r->count <= 56) {
		if (r->p < r->end)
			r->bits |= (uint64_t)*r->p++ << r->count;
		r->count += 8; // zeros after the end: the trailer will not match
	}
}

static uint32_t take(struct reader *r, int bits) {
	if (r->count < bits)
		fill(r);
	uint32_t v = r->bits & ((1u << bits) - 1);
	r->bits >>= bits;
	r->count -= bits;
	return v;
}

static void makeDecoder(struct decoder *d, const uint8_t *length, int n) {
	uint16_t offset[maxBits + 2] = {0}, code[maxBits + 2] = {0};
	memset(d, 0, sizeof *d);
	for (int i = 0; i < n; i++)
		d->count[length[i]]++;
	d->count[0] = 0;
	for (int i = 1; i <= maxBits; i++) {
		offset[i + 1] = offset[i] + d->count[i];
		code[i + 1] = (code[i] + d->count[i]) << 1;
	}
	for (int i = 0; i < n; i++) {
		int l = length[i];
		if (l == 0)
			continue;
		d->symbol[offset[l]++] = i;
		uint32_t mirrored = 0, c = code[l]++;
		for (int k = 0; k < l; k++)
			mirrored |= (c >> k & 1) << (l - 1 - k);
		if (l <= fastBits)
			for (; mirrored < 1 << fastBits; mirrored += 1u << l)
				d->fast[mirrored] = i << 4 | l;
	}
}

static int decode(struct reader *r, const struct decoder *d) {
	if (r->count < maxBits)
		fill(r);
	uint16_t e = d->fast[r->bits & ((1 << fastBits) - 1)];
	if (e != 0) {
		r->bits >>= e & 15;
		r->count -= e & 15;
		return e >> 4;
	}
	int code = 0, first = 0, index = 0;
	for (int l = 1; l <= maxBits; l++) {
		code |= r->bits >> (l - 1) & 1;
		if (code - first < d->count[l]) {
			r->bits >>= l;
			r->count -= l;
			return d->symbol[index + code - first];
		}
		index += d->count[l];
		first = (first + d->count[l]) << 1;
		code <<= 1;
	}
	fail("gunzip: no such code");
}

static void fixedCodes(struct decoder *lit, struct decoder *dist) {
	uint8_t length[288];
	for (int i = 0; i < 288; i++)
		length[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
	makeDecoder(lit, length, 288);
	memset(length, 5, 30);
	makeDecoder(dist, length, 30);
}

static void readCodes(struct reader *r, struct decoder *lit, struct decoder *dist) {
	uint8_t length[320] = {0};
	int nlit = take(r, 5) + 257, ndist = take(r, 5) + 1, nlen = take(r, 4) + 4;
	for (int i = 0; i < nlen; i++)
		length[lengthOrder[i]] = take(r, 3);
	makeDecoder(lit, length, lengths);
	memset(length, 0, lengths);
	for (int i = 0; i < nlit + ndist;) {
		int symbol = decode(r, lit), repeat = 1, value = symbol;
		if (symbol == 16) {
			if (i == 0)
				fail("gunzip: nothing to repeat");
			value = length[i - 1];
			repeat = 3 + take(r, 2);
		} else if (symbol > 16) {
			value = 0;
			repeat = symbol == 17 ? 3 + take(r, 3) : 11 + take(r, 7);
		}
		if (i + repeat > nlit + ndist)
			fail("gunzip: too many lengths");
		while (repeat--)
			length[i++] = value;
	}
	makeDecoder(dist, length + nlit, ndist);
	makeDecoder(lit, length, nlit);
}

static uint8_t *inflateCodes(struct reader *r, const struct decoder *lit, const struct decoder *dist, uint8_t *start, uint8_t *out, uint8_t *end) {
	for (;;) {
		int symbol = decode(r, lit);
		if (symbol == endOfBlock)
			return out;
		if (symbol < 256) {
			if (out == end)
				fail("gunzip: no room");
			*out++ = symbol;
			continue;
		}
		if ((symbol -= 257) >= 29)
			fail("gunzip: no such length");
		int n = lengthBase[symbol] + take(r, lengthExtra[symbol]), code = decode(r, dist);
		if (code >= 30)
			fail("gunzip: no such distance");
		int d = distBase[code] + take(r, distExtra[code]);
		if (d > out - start || n > end - out)
			fail("gunzip: match out of bounds");
		for (; n > 0; n--, out++)
			*out = out[-d];
	}
}

static uint8_t *inflateStored(struct reader *r, uint8_t *out, uint8_t *end) {
	take(r, r->count & 7);
	int n = take(r, 16);
	if ((n ^ take(r, 16)) != 0xffff || n > end - out)
		fail("gunzip: stored block");
	while (n--)
		*out++ = take(r, 8);
	return out;
}

size_t expand_gzip(const uint8_t *in, size_t n, uint8_t *out, size_t room) {
	static struct decoder lit, dist;
	if (n < 18 || in[0] != 0x1f || in[1] != 0x8b || in[3] != 0)
		fail("gunzip: header");
	tables();
	struct reader r = {.p = in + 10, .end = in + n};
	uint8_t *at = out, *end = out + room;
	for (int last = 0; !last;) {
		last = take(&r, 1);
		switch (take(&r, 2)) {
		case 0:
			at = inflateStored(&r, at, end);
			continue;
		case 1:
			fixedCodes(&lit, &dist);
			break;
		case 2:
			readCodes(&r, &lit, &dist);
			break;
		default:
			fail("gunzip: block type");
		}
		at = inflateCodes(&r, &lit, &dist, out, at, end);
	}
	take(&r, r.count & 7);
	uint32_t crc = take(&r, 16);
	crc |= take(&r, 16) << 16;
	if (crc != crc32(out, at - out))
		fail("gunzip: checksum");
	return at - out;
}
