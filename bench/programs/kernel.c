// SPDX-License-Identifier: Apache-2.0

// Programs that live in the kernel: processes, pipes, system calls, pages.
#define _GNU_SOURCE
#include "bench.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// forkexec starts this binary again and again; the new process ends at once.
uint64_t forkexec(void) {
	uint64_t sum = 0;
	for (int i = 0; i < 600; i++) {
		int status;
		pid_t child = fork();
		if (child == 0) {
			execl("/proc/self/exe", "bench", "--exit", (char *)NULL);
			_exit(99);
		}
		if (child < 0 || waitpid(child, &status, 0) < 0 || !WIFEXITED(status))
			fail("forkexec");
		sum += WEXITSTATUS(status);
	}
	return sum;
}

// pingpong sends one byte to another process and waits for its answer.
uint64_t pingpong(void) {
	int there[2], back[2];
	uint8_t byte = 1;
	uint64_t sum = 0;
	if (pipe(there) != 0 || pipe(back) != 0)
		fail("pipe");
	pid_t child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		close(there[1]);
		while (read(there[0], &byte, 1) == 1) {
			byte = byte * 5 + 3;
			if (write(back[1], &byte, 1) != 1)
				break;
		}
		_exit(0);
	}
	for (int i = 0; i < 50000; i++) {
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			fail("pipe");
		sum = mix(sum, byte);
	}
	close(there[1]);
	waitpid(child, NULL, 0);
	return sum;
}

// getppid_loop makes the cheapest system call; libc's getpid may not make one.
uint64_t getppid_loop(void) {
	uint64_t same = 0;
	long parent = syscall(SYS_getppid);
	for (int i = 0; i < 2000000; i++)
		same += syscall(SYS_getppid) == parent;
	return same;
}

// pagefault touches pages that were never touched before, 4 KiB each.
uint64_t pagefault(void) {
	const size_t size = 16 * MiB, page = 4096;
	uint64_t sum = 0;
	for (int round = 0; round < 30; round++) {
		uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			fail("mmap");
		madvise(p, size, MADV_NOHUGEPAGE); // else one fault may bring 2 MiB
		for (size_t i = 0; i < size; i += page) {
			p[i] = i / page + round;
			sum += p[i] + p[i + 1];
		}
		munmap(p, size);
	}
	return sum;
}
