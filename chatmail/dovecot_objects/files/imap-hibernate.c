/* Lets Dovecot's imap-hibernate hand a client back at once.

   imap-hibernate waits for the next message of a client with an instance of inotify. It closes this instance before it
   hands the client back to imap. The kernel then waits until no processor uses a watch of the instance any more
   (fsnotify_destroy_group in fs/notify/group.c), which takes 4 to 20 ms. All clients of the one imap-hibernate process
   wait meanwhile. With this object, a thread that does nothing else closes the instance.

   The dynamic linker loads this object before the C library, so that Dovecot calls the function below instead of the
   library's own.

   Needs no headers, so that a compiler without libraries can compile it. */

typedef unsigned long size;

/* dlfcn.h, unistd.h, string.h, stdio.h, signal.h and pthread.h of glibc, on machines of 64 bits */
#define NEXT_DEFINITION ((void *)-1L)
#define SIG_SETMASK 2
#define PTHREAD_CREATE_DETACHED 1
#define STACK_SIZE 262144 /* bytes; the default of 8 MB would count against Dovecot's vsz_limit */
extern void *dlsym(void *handle, const char *name);
extern long readlink(const char *path, char *target, size length);
extern int memcmp(const void *a, const void *b, size length);
extern int snprintf(char *text, size length, const char *format, ...);
extern int pthread_attr_init(void *attributes);
extern int pthread_attr_setdetachstate(void *attributes, int state);
extern int pthread_attr_setstacksize(void *attributes, size length);
extern int pthread_create(unsigned long *thread, const void *attributes, void *(*function)(void *), void *argument);
extern int pthread_sigmask(int how, const void *set, void *old);

static int (*libcs)(int);

static int is_inotify(int fd)
{
	static const char inotify[] = "anon_inode:inotify";
	char path[32], target[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return readlink(path, target, sizeof(target)) == sizeof(inotify) - 1 &&
		memcmp(target, inotify, sizeof(inotify) - 1) == 0;
}

static void *close_in_thread(void *fd)
{
	libcs((int)(long)fd);
	return 0;
}

/* Returns 0, or an error when there are too many threads. */
static int start_thread(int fd)
{
	/* The types of glibc have at most 128 bytes. */
	static unsigned long attributes[16], all_signals[16];
	unsigned long thread, before[16];
	int i, error;

	if (!all_signals[0]) {
		for (i = 0; i < 16; i++)
			all_signals[i] = ~0UL;
		pthread_attr_init(attributes);
		pthread_attr_setdetachstate(attributes, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(attributes, STACK_SIZE);
	}
	/* Signals are for Dovecot's own thread. A new thread begins with the signals that its parent blocks. */
	pthread_sigmask(SIG_SETMASK, all_signals, before);
	error = pthread_create(&thread, attributes, close_in_thread, (void *)(long)fd);
	pthread_sigmask(SIG_SETMASK, before, 0);
	return error;
}

/* No number is used again before its file is closed, so it does not matter when a thread closes it. */
int close(int fd)
{
	if (!libcs)
		libcs = dlsym(NEXT_DEFINITION, "close");
	if (is_inotify(fd) && start_thread(fd) == 0)
		return 0;
	return libcs(fd);
}
