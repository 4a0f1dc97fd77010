// SPDX-License-Identifier: Apache-2.0

// All benchmark programs in one binary. On a host: bench NAME... As the first
// process of a guest it mounts what the programs need, takes the names from the
// kernel's command line (bench=NAME,NAME; none for all) and powers off at the
// end. It reads no clock: whoever reads the lines it prints has one.
#define _GNU_SOURCE
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct program {
	const char *name;
	void (*setup)(void);
	uint64_t (*run)(void);
} programs[] = {
	{"int_core", NULL, int_core},
	{"sha256", sha256_setup, sha256},
	{"chase64M", chase_setup, chase},
	{"memcpy64M", memcpy_setup, copy},
	{"stream64M", stream_setup, stream},
	{"fmatmul256", fmatmul_setup, fmatmul},
	{"fmatmul256_fma", fmatmul_fma_setup, fmatmul_fma},
	{"nbody", NULL, nbody},
	{"interp", NULL, interp},
	{"calls", NULL, calls},
	{"forkexec", NULL, forkexec},
	{"pipe", NULL, pingpong},
	{"getpid", NULL, getppid_loop},
	{"pagefault", NULL, pagefault},
	{"gzip32M", gzip_setup, gzip},
	{"gunzip32M", gunzip_setup, gunzip},
};

#define COUNT (sizeof programs / sizeof *programs)

// print writes a line at once, so that no other process comes between.
static void print(const char *event, const char *name, const char *detail) {
	char line[200];
	int n = snprintf(line, sizeof line, "BENCH-%s %s%s%s\n", event, name, *detail ? " " : "", detail);
	if (write(1, line, n) != n)
		_exit(2);
}

void fail(const char *what) {
	print("FAIL", what, "");
	_exit(2);
}

void *allocate(size_t bytes) {
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (p == MAP_FAILED)
		fail("no memory");
	return p;
}

static void run(const struct program *p) {
	char sum[17];
	if (p->setup)
		p->setup();
	print("BEGIN", p->name, "");
	snprintf(sum, sizeof sum, "%016llx", (unsigned long long)p->run());
	print("END", p->name, sum);
}

// runChild gives each program a process, hence memory, of its own.
static void runChild(const struct program *p) {
	int status;
	pid_t child = fork();
	if (child == 0) {
		run(p);
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0)
		print("FAIL", p->name, "fork");
	else if (status != 0)
		print("FAIL", p->name, WIFSIGNALED(status) ? "killed by a signal" : "ended with an error");
}

static void runName(const char *name) {
	for (size_t i = 0; i < COUNT; i++)
		if (strcmp(programs[i].name, name) == 0) {
			runChild(&programs[i]);
			return;
		}
	print("FAIL", name, "no such program");
}

// guest is the life of a guest's first process.
static void guest(void) {
	char text[4096] = "", *list = NULL;
	mkdir("/proc", 0755);
	mkdir("/dev", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL) != 0)
		print("FAIL", "mount", "/proc");
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	klogctl(8, NULL, 1); // SYSLOG_ACTION_CONSOLE_LEVEL: the kernel's messages would cut our lines
	print("INIT", "ready", "");
	FILE *f = fopen("/proc/cmdline", "r");
	if (f && fgets(text, sizeof text, f))
		for (char *word = strtok(text, " \n"); word; word = strtok(NULL, " \n"))
			if (strncmp(word, "bench=", 6) == 0)
				list = word + 6;
	if (!list)
		for (size_t i = 0; i < COUNT; i++)
			runChild(&programs[i]);
	else
		for (char *name = strtok(list, ","); name; name = strtok(NULL, ","))
			runName(name);
	print("DONE", "all", "");
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

int main(int argc, char **argv) {
	if (argc == 2 && strcmp(argv[1], "--exit") == 0)
		return 7; // what forkexec starts
	if (getpid() == 1)
		guest();
	print("INIT", "ready", "");
	for (int i = 1; i < argc; i++)
		runName(argv[i]);
	print("DONE", "all", "");
	return 0;
}
