// Fresh memory costs a fault for every page of it; of large pages there are few. Where the system has none, or the
// memory is in use already, nothing changes.
#if defined(__linux__)
extern "C" int madvise(void *from, unsigned long size, int advice) noexcept;
static void prefer_large_pages(float *from, int64_t count) {
    constexpr int64_t PAGE = 2 << 20;
    constexpr int MADV_HUGEPAGE = 14;
    const int64_t first = (reinterpret_cast<int64_t>(from) + PAGE - 1) / PAGE * PAGE;
    const int64_t last = (reinterpret_cast<int64_t>(from) + 4 * count) / PAGE * PAGE;
    if (last - first >= 8 * PAGE) madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);
}
#else
static void prefer_large_pages(float *, int64_t) {}
#endif
