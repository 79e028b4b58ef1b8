#!/bin/sh
# run.sh [MODEL...]: every kernel test on emulated CPUs, whatever this machine's own CPU has.
#
# Records what tests/kernels runs (recorder.py), links the engine statically with kernel_test.c, and runs that on each
# CPU model under Bochs (run-on-vnni). Each model must report exactly the ISAs below. PYTHON: the interpreter that has
# quantkit with its engine and pytest. Exit status: 0 if all passed.
#
# Needs Debian's bochs bochs-term busybox-static cpio; on bookworm also ./get-bochs3, once, for AVX-VNNI.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
python=${PYTHON:-python3}
out=$root/build/emulator
limit=1200 # seconds for one model; 90 were measured on a Zen 5

isas_of() {
    case $1 in
    sapphire_rapids) echo scalar,avx2,avxvnni,avx512vnni ;;
    tigerlake | corei7_icelake_u) echo scalar,avx2,avx512vnni ;;
    arrow_lake) echo scalar,avx2,avxvnni ;;
    corei7_haswell_4770 | corei7_skylake_x) echo scalar,avx2 ;;
    *) echo "run.sh: unknown CPU model '$1'" >&2; exit 2 ;;
    esac
}

[ $# -gt 0 ] || set -- sapphire_rapids arrow_lake corei7_haswell_4770
for model; do isas_of "$model" >/dev/null; done
mkdir -p "$out"
cd "$root"
vectors=${VECTORS:-$out/vectors.bin}
[ -n "${VECTORS:-}" ] ||
    "$python" -m pytest tests/kernels -p tests.emulator.recorder --record-vectors "$vectors"
"$python" tests/emulator/build.py "$out/kernel_test" --static
echo "== this machine"
"$out/kernel_test" "$vectors"
for model; do
    echo "== $model"
    "$here/run-on-vnni" -t $limit -c "$model" "$out/kernel_test" "$(basename "$vectors")" "$(isas_of "$model")" -- "$vectors"
done
