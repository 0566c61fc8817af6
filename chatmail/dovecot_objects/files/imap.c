/* Lets Dovecot's imap tell a client in IDLE of a new message at once.

   mailbox-watch.c in Dovecot 2.3 and 2.4 waits for 500 ms (NOTIFY_DELAY_MSECS) after it has seen a change. The dynamic
   linker loads this object before Dovecot's libraries, so that Dovecot calls the functions below instead of its own.

   It also closes a gap. An imap process that hands a client over to imap-hibernate forgets a notice that waits, and a
   change that it has not read yet. So a client is not handed over while there is one. Dovecot tries again after the
   next notice.

   Needs no headers, so that a compiler without libraries can compile it. A function that a later Dovecot does not have
   is never called, and the rest works as before. */

typedef void timeout_callback(void *context);
struct timeout;
struct mailbox;

/* dlfcn.h and sys/ioctl.h of glibc */
#define NEXT_DEFINITION ((void *)-1L)
#define FIONREAD 0x541B
extern void *dlsym(void *handle, const char *name);
extern int ioctl(int fd, unsigned long request, ...);
extern int close(int fd);

/* Milliseconds. Delivery changes several files, and one notice for all of them is enough. */
#define NOTICE_DELAY 2

static struct timeout *notice; /* what waits to be told, or a null pointer */
static int watching = -1;      /* the inotify instance from which Dovecot reads changes of the mailbox */
static int handing_over;

static int ends_with(const char *text, const char *end)
{
	const char *a = text, *b = end;

	while (*a) a++;
	while (*b) b++;
	while (b > end)
		if (a == text || *--a != *--b)
			return 0;
	return 1;
}

struct timeout *timeout_add_short(unsigned int msecs, const char *source_filename, unsigned int source_linenum,
				  timeout_callback *callback, void *context)
{
	struct timeout *(*dovecots)(unsigned int, const char *, unsigned int, timeout_callback *, void *) =
		dlsym(NEXT_DEFINITION, "timeout_add_short");

	if (!ends_with(source_filename, "mailbox-watch.c"))
		return dovecots(msecs, source_filename, source_linenum, callback, context);
	return notice = dovecots(NOTICE_DELAY, source_filename, source_linenum, callback, context);
}

void timeout_remove(struct timeout **timeout)
{
	static void (*dovecots)(struct timeout **);

	if (!dovecots)
		dovecots = dlsym(NEXT_DEFINITION, "timeout_remove");
	if (*timeout == notice)
		notice = 0;
	dovecots(timeout);
}

/* Dovecot also has short-lived instances, which wait for a lock. */
int inotify_add_watch(int fd, const char *path, unsigned int mask)
{
	int (*libcs)(int, const char *, unsigned int) = dlsym(NEXT_DEFINITION, "inotify_add_watch");

	if (!handing_over && ends_with(path, "/new"))
		watching = fd;
	return libcs(fd, path, mask);
}

/* Returns the inotify instance that imap-hibernate is to read from, or -1 and a reason. Changes from now on go there,
   and all changes before have come in when this looks for them. So none is lost between the two. */
int mailbox_watch_extract_notify_fd(struct mailbox *box, const char **reason_r)
{
	int (*dovecots)(struct mailbox *, const char **) = dlsym(NEXT_DEFINITION, "mailbox_watch_extract_notify_fd");
	int fd, unread = 0;

	handing_over = 1;
	fd = dovecots(box, reason_r);
	handing_over = 0;
	if (watching != -1)
		ioctl(watching, FIONREAD, &unread);
	if (fd != -1 && (notice || unread > 0)) {
		close(fd);
		*reason_r = "a change was not told yet";
		return -1;
	}
	return fd;
}
