// SPDX-License-Identifier: Apache-2.0

/* The protocol of package ft between the moment at which a primary, the owner of epoch
   1, opens epoch 2 for its backup, and the moment at which one of the two has won it or
   needs no other: a model for spin. make model checks it, and that each rule is needed:
   without it (-DNO_...) a property fails. The numbers are those of ft's package comment.

   Time is a count that a process of its own moves. Both sides may be as slow as they
   like between two steps; a step is atomic, so the test of the lease and the emission
   are one, which is what the fences are for.

   Fault: one of a crash of either side, or a channel that breaks for good, at any
   moment. The arbiter may be away for a while and may lose one answer. */

#define ENTRIES 3	// in the log, Activate among them
#define END     4	// of time: whoever waits for it has waited long enough
#define TIMEOUT 2
#define LEASE   1

/* The rules that may be left out. */
#ifdef NO_LEASE
#define FRESH true
#else
#define FRESH (now < lease && now < END)
#endif
#ifdef NO_LEAVING
#define STAYS true
#else
#define STAYS (!leaving)
#endif
#ifdef NO_ACK
#define ACKED last
#else
#define ACKED acked
#endif
#ifdef NO_TIMEOUT
#define SILENT true
#else
#define SILENT (a == Dead || a == Halted || now - heard >= TIMEOUT || now == END)
#endif

mtype = { Output, Activate, Switch, Dismiss };
mtype = { Syncing, Protected, Claiming, Solo, Halted, Dead, Receiving, Replaying, Live };

chan log  = [ENTRIES] of { mtype, byte };	// what, stamp
chan acks = [ENTRIES] of { byte, byte };	// entries received, echo

mtype a = Syncing, b = Receiving;
byte now, owner;		// of epoch 2: 0 nobody, 1 the primary, 2 the backup
bool up = true, broken, failed;	// the arbiter, the channel; the one fault has happened
byte answers = 1;		// that the arbiter may lose

/* Outputs are numbered from 1 as the guest emits them. */
byte emitted;			// the last one that has left
byte logged;			// the last one in the backup's log
bool armed;			// Activate is there too
bool parting;			// the operator has asked for the backup's dismissal

inline emit(who, n) {
	assert(who == 1 && owner != 2 || who == 2 && owner == 2);	// never two that emit
	if
	:: n > emitted -> assert(n == emitted + 1); emitted = n	// no hole
	:: else						// left twice: TCP and disks absorb it
	fi
}

/* claim is the test-and-set. An answer may be lost; the question is asked again. */
inline claim(who, me, won) {
	if
	:: owner == 0 -> owner = who
	:: else
	fi;
	if
	:: answers > 0 -> answers--
	:: owner == who -> me = won
	:: owner != who ->
#ifdef NO_CLAIM
		me = won
#else
		me = Halted
#endif
	fi
}

active proctype Primary() {
	byte last, outputs, sent;	// entries; outputs emitted by the guest
	byte mark[ENTRIES + 2];		// of each output: its entry
	byte acked, lease, n, echo;
	bool holding, opened, leaving;

end:	do
	/* The guest runs. Before the backup could claim, outputs need not wait. */
	:: atomic { (a == Syncing || a == Protected) && !leaving && !parting && last < ENTRIES ->
		last++; outputs++; mark[outputs] = last;
		if
		:: !broken && b != Dead -> log!Output,now
		:: else
		fi;
		if
		:: !holding -> emit(1, outputs)
		:: else
		fi }

	/* 3: hold, then record Activate, then send it. */
	:: atomic { a == Syncing && !opened && last < ENTRIES && !broken ->
#ifndef NO_HOLD
		holding = true;
#endif
		opened = true; last++;
		log!Activate,now }
	:: atomic { a == Protected && !holding -> holding = true }	// with NO_HOLD: too late

	/* 9 and 10: the roles change, or the backup is dismissed. */
	:: atomic { a == Protected && !leaving && !parting && last < ENTRIES && !broken ->
		last++;
		if
		:: leaving = true; log!Switch,now
		:: parting = true; log!Dismiss,now
		fi }

	:: atomic { (a == Syncing || a == Protected) && nempty(acks) -> acks?n,echo;
		acked = n;
#ifdef NO_ECHO
		lease = now + LEASE;
#else
		lease = echo + LEASE;
#endif
		if
		:: parting && acked == last -> holding = false; a = Solo
		:: else ->
			if
			:: a == Syncing && opened -> a = Protected	// Activate may be last of what is acked
			:: else
			fi
		fi }

	/* 4: the Output Rule. */
	:: atomic { a == Protected && emitted < outputs && mark[emitted + 1] <= ACKED && FRESH && STAYS ->
		emit(1, emitted + 1) }

	/* A peer is lost whenever we think so. 8: one that can't claim needs no claim. */
	:: atomic { a == Syncing && !opened && (broken || b == Dead || b == Halted) -> a = Solo }
	:: atomic { (a == Syncing || a == Protected) && opened && (now == END || broken || b == Dead || b == Halted) ->
		a = Claiming }
	:: atomic { a == Claiming && up -> claim(1, a, Solo) }

	/* 5: alone. */
	:: atomic { a == Solo && emitted < outputs -> emit(1, emitted + 1) }
	od
}

active proctype Backup() {
	byte received, heard, stamp, n, missed;
	mtype what;

end:	do
	:: atomic { (b == Receiving || b == Replaying) && !broken && nempty(log) -> log?what,stamp;
		heard = now; received++;
		if
		:: what == Output -> logged++
		:: what == Activate -> armed = true; b = Replaying
		:: what == Switch -> b = Claiming
		:: what == Dismiss ->
#ifndef NO_HALT
			b = Halted
#else
			skip
#endif
		fi;
		if
		:: a != Dead && (b == Replaying || b == Receiving || what == Dismiss) -> acks!received,stamp
		:: else
		fi }

	/* 4 and 6: silence for the timeout, or a primary that is known to be dead; what is
	   in the socket is read before. 2: only with Activate in the log. */
	:: atomic { b == Replaying && (empty(log) || broken) && SILENT -> b = Claiming }
	:: atomic { b == Receiving && (a == Dead || broken) && (empty(log) || broken) ->
#ifdef NO_ACTIVATE
		b = Claiming
#else
		b = Halted
#endif
		}
	:: atomic { b == Claiming && up -> claim(2, b, Live) }

	/* Live: what left is in our log. All that may not have left is emitted again. */
	:: atomic { b == Live && n < logged ->
		assert(emitted <= logged);	// no output that left is lost
		n++; emit(2, n) }
	:: atomic { b == Live && n == logged -> assert(emitted <= logged); n = 255 }
	od
}

active proctype World() {
end:	do
	:: atomic { now < END -> now++ }
	:: atomic { !failed -> failed = true;
		if
		:: a != Claiming && a != Solo && a != Halted -> a = Dead
		:: b != Live && b != Halted && b != Claiming -> b = Dead
		:: broken = true
		:: skip
		fi }
	:: atomic { up && now == 1 -> up = false }
	:: atomic { !up && now > 1 -> up = true }
	od
}

/* Whatever failed, one side that can go on does. */
ltl goes_on { [] ( (b == Dead || broken && a != Dead && b != Dead) -> <> (a == Solo || b == Live) ) }
ltl takes_over { [] ( (a == Dead && armed && !parting && b != Halted) -> <> (b == Live) ) }
