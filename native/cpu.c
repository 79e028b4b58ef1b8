/* cpu.c: what this CPU and its operating system can run. */
#include <stdatomic.h>

#include "internal.h"

#if QK_X86
#include <cpuid.h>

enum { XCR0_AVX = 0x6, XCR0_AVX512 = 0xe6 };

typedef struct {
    uint32_t leaf1_ecx, leaf7_ebx, leaf7_ecx, leaf7_1_eax;
    uint64_t xcr0;
} cpu_features;

static int has(uint32_t word, int bit) {
    return (word >> bit) & 1;
}

static cpu_features read_features(void) {
    cpu_features f = {0};
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return f;
    f.leaf1_ecx = c;
    if (has(c, 27)) { /* OSXSAVE: xgetbv may be used */
        uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        f.xcr0 = (uint64_t)high << 32 | low;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        const uint32_t subleaves = a;
        f.leaf7_ebx = b;
        f.leaf7_ecx = c;
        if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
            f.leaf7_1_eax = a;
    }
    return f;
}

static int cpu_has(qk_isa isa) {
    const cpu_features f = read_features();
    const int avx2 = (f.xcr0 & XCR0_AVX) == XCR0_AVX && has(f.leaf1_ecx, 28) && has(f.leaf1_ecx, 12) /* FMA */ &&
                     has(f.leaf7_ebx, 5);
    const int avx512 = (f.xcr0 & XCR0_AVX512) == XCR0_AVX512 && has(f.leaf7_ebx, 16) /* F */ &&
                       has(f.leaf7_ebx, 17) /* DQ */ && has(f.leaf7_ebx, 30) /* BW */ && has(f.leaf7_ebx, 31) /* VL */;
    switch (isa) {
    case QK_SCALAR:
        return 1;
    case QK_AVX2:
        return avx2;
    case QK_AVXVNNI:
        return avx2 && has(f.leaf7_1_eax, 4);
    case QK_AVX512VNNI:
        return avx2 && avx512 && has(f.leaf7_ecx, 11);
    default:
        return 0;
    }
}
#else
static int cpu_has(qk_isa isa) {
    return isa == QK_SCALAR;
}
#endif

/* Asked once: in a virtual machine a cpuid leaves it, about 1 us each. */
int32_t qk_isa_available(qk_isa isa) {
    static _Atomic uint32_t known; /* a bit an ISA, and the highest: asked */
    uint32_t found = atomic_load_explicit(&known, memory_order_relaxed);
    if (!found) {
        found = 1u << 31;
        for (int i = 0; i < QK_ISA_COUNT; i++)
            found |= (uint32_t)cpu_has((qk_isa)i) << i;
        atomic_store_explicit(&known, found, memory_order_relaxed);
    }
    return (uint32_t)isa < QK_ISA_COUNT ? (int32_t)(found >> isa & 1) : 0;
}

const char *qk_isa_name(qk_isa isa) {
    static const char *const names[QK_ISA_COUNT] = {"scalar", "avx2", "avxvnni", "avx512vnni"};
    return (uint32_t)isa < QK_ISA_COUNT ? names[isa] : "unknown";
}
