// Keys in stripes: `width` positions of every `period`, from `start` on, numbered as if there were no others. Of a
// stripe that starts before key 0, `missing` positions do not exist.
template <int period, int width, int start>
struct Stripes {
    static constexpr int32_t missing = start < 0 ? -start : 0;

    // How many keys there are in the stripes before position `end`.
    static int32_t before(int32_t end) {
        const int32_t along = end - start;
        return along < 0 ? 0 : along / period * width + minimum(along % period, width) - missing;
    }

    // The position of key `number`.
    static int32_t position(int32_t number) {
        const int32_t along = number + missing;
        return along / width * period + along % width + start;
    }

    // The keys of a block, from key number `first` on.
    struct Keys {
        int32_t numbers[BLOCK_N];

        void place(int32_t first, int32_t keys) {
            for (int key = 0; key < keys; ++key) numbers[key] = position(first + key);
        }
    };
};
