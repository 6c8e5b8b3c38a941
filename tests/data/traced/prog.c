__attribute__((noinline)) int broken(int *where) { return *where + 1; }
static inline __attribute__((always_inline)) int inlined(int *where)
{
	return broken(where) * 3;
}
__attribute__((noinline)) int caller(int *where)
{
	return inlined(where) + 7;
}
int _start(void) { return caller(0); }
