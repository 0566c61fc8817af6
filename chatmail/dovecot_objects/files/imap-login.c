/* Lets Dovecot's imap-login hold less memory for each client, and give it back when clients leave.

   A client with TLS stays connected to imap-login for its whole life, most of the time idle. Dovecot 2.3 and 2.4 give it
   buffers that could hold a whole TLS record in each direction, and several of 8 KB. Most of this memory holds nothing.
   Dovecot and OpenSSL work with smaller buffers as well: they copy in more steps.

   The dynamic linker loads this object before Dovecot's libraries, so that Dovecot calls the functions below instead of
   its own and OpenSSL's. Each one calls the function that it replaces, with another size.

   Needs no headers, so that a compiler without libraries can compile it. A function that a later Dovecot does not call
   is never used, and the rest works as before. */

typedef unsigned long size;
struct bio;
struct ssl;
struct ssl_context;
struct istream;
struct ostream;
struct pool;

/* dlfcn.h and malloc.h of glibc */
#define NEXT_DEFINITION ((void *)-1L)
extern void *dlsym(void *handle, const char *name);
extern int malloc_trim(size pad);

/* Bytes. Dovecot reads at most 1026 bytes from a client at once, and writes at most 4096 to it. */
#define TLS_FROM_CLIENT 2048
#define TLS_TO_CLIENT 4096

/* Bytes. What Dovecot asks for (IO_BLOCK_SIZE), and what it gets for the socket between imap-login and imap. */
#define BLOCK 8192
#define TO_IMAP 2048
#define FROM_IMAP 4096

/* Bytes. The pool grows when a client needs more. */
#define CLIENT_POOL 2048

static int is(const char *a, const char *b)
{
	while (*a && *a == *b) a++, b++;
	return *a == *b;
}

/* The two ends of the pair belong to OpenSSL and to Dovecot, in this order (iostream-openssl.c). */
int BIO_new_bio_pair(struct bio **openssls, size to_client, struct bio **dovecots, size from_client)
{
	static int (*original)(struct bio **, size, struct bio **, size);

	if (!original)
		original = dlsym(NEXT_DEFINITION, "BIO_new_bio_pair");
	/* 0 stands for the default size of OpenSSL, 17 KB. */
	if (to_client == 0 && from_client == 0)
		return original(openssls, TLS_TO_CLIENT, dovecots, TLS_FROM_CLIENT);
	return original(openssls, to_client, dovecots, from_client);
}

struct istream *i_stream_create_fd_autoclose(int *fd, size max_buffer_size)
{
	static struct istream *(*original)(int *, size);

	if (!original)
		original = dlsym(NEXT_DEFINITION, "i_stream_create_fd_autoclose");
	return original(fd, max_buffer_size == BLOCK ? FROM_IMAP : max_buffer_size);
}

struct ostream *o_stream_create_fd(int fd, size max_buffer_size)
{
	static struct ostream *(*original)(int, size);

	if (!original)
		original = dlsym(NEXT_DEFINITION, "o_stream_create_fd");
	return original(fd, max_buffer_size == BLOCK ? TO_IMAP : max_buffer_size);
}

struct pool *pool_alloconly_create(const char *name, size bytes)
{
	static struct pool *(*original)(const char *, size);

	if (!original)
		original = dlsym(NEXT_DEFINITION, "pool_alloconly_create");
	return original(name, bytes == BLOCK && is(name, "login client") ? CLIENT_POOL : bytes);
}

/* The memory of clients who left is free, but scattered, so glibc keeps it. It is given back when a quarter of the
   clients has left. So the work grows with the number of clients only, and a few clients cause none. */
static long clients, most; /* TLS connections now, and the highest number since memory was given back */

struct ssl *SSL_new(struct ssl_context *context)
{
	static struct ssl *(*original)(struct ssl_context *);
	struct ssl *made;

	if (!original)
		original = dlsym(NEXT_DEFINITION, "SSL_new");
	made = original(context);
	if (made && ++clients > most)
		most = clients;
	return made;
}

void SSL_free(struct ssl *connection)
{
	static void (*original)(struct ssl *);

	if (!original)
		original = dlsym(NEXT_DEFINITION, "SSL_free");
	original(connection);
	if (connection && 4 * --clients + 16 <= 3 * most) {
		most = clients;
		malloc_trim(0);
	}
}
