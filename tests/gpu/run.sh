#!/usr/bin/env bash
# What a machine with a GPU is asked for, in one call of at most eight minutes: `bash tests/gpu/run.sh [OUT]`.
#
# Three parts, each with its own limit, none of which stops the next: a report on the machine, the tests that run on
# devices, and the measurements of `subsetopt.bench.gpu`. OUT (gpu-results) gets environment.json, pytest.txt,
# pytest.xml, what the measurements write, and parts.txt: each part's exit code and seconds. Without a GPU all parts run
# on the CPU, the measurements with tiny sizes. Exits 0 where all parts did.
#
# It needs no installation and no network: the package is run from this checkout, beside the machine's own PyTorch.
# SUBSETOPT_WHEELS  a folder of wheels that the machine lacks (tests/gpu/wheels.sh collects them); they are unpacked
# SUBSETOPT_PARTS   parts to run, by default "environment tests bench"
# SUBSETOPT_TESTS   what pytest is given besides -m gpu, by default the folders that have such tests
# SUBSETOPT_BENCH   what the measurements are given, such as "--parts solve,race"; by default nothing: all parts
# SUBSETOPT_PATIENCE  by how much to lengthen the limits of the parts, 1 by default: for a machine that others use, too
# PYTHON            the interpreter, by default python3
set -uo pipefail

mkdir -p "${1:-gpu-results}"
out="$(cd "${1:-gpu-results}" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python="${PYTHON:-python3}"
parts="${SUBSETOPT_PARTS:-environment tests bench}"
tests="${SUBSETOPT_TESTS:-tests/samplers tests/gpu tests/objective/test_layers_dense.py}"
temporary="$(mktemp -d)"
trap 'rm -rf "$temporary"' EXIT

export PYTHONPATH="$PWD:$PWD/cli${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONDONTWRITEBYTECODE=1
if [ -n "${SUBSETOPT_WHEELS:-}" ]; then
    for wheel in "$SUBSETOPT_WHEELS"/*.whl; do
        "$python" -m zipfile -e "$wheel" "$temporary/wheels"
    done
    # Behind the machine's own packages would be safer, but PYTHONPATH is searched first: carry only what is missing.
    export PYTHONPATH="$PYTHONPATH:$temporary/wheels"
fi

: > "$out/parts.txt"
failed=0
part() { # NAME SECONDS COMMAND...: runs it, interrupted after that time, and notes how it ended
    local name="$1" seconds="$(($2 * ${SUBSETOPT_PATIENCE:-1}))" began="$SECONDS" code=0
    shift 2
    case " $parts " in *" $name "*) ;; *) return 0 ;; esac
    echo "== $name"
    timeout --signal=INT --kill-after=15 "$seconds" "$@" || code=$?
    echo "$name: exit $code after $((SECONDS - began)) s" | tee -a "$out/parts.txt"
    [ "$code" -eq 0 ] || failed=1
}

run_tests() { # in a shell of its own, so that `timeout` reaches pytest
    # pyproject.toml's options are for plugins that may not be here; -v, so that the file tells what ran before a limit.
    exec "$python" -m pytest -m gpu -o addopts= --import-mode=importlib --strict-markers --continue-on-collection-errors \
        -v --tb=short --durations=15 -p no:cacheprovider --junitxml="$out/pytest.xml" $tests > "$out/pytest.txt" 2>&1
}
export -f run_tests
export python tests out

part environment 60 "$python" tests/gpu/environment.py "$out"
part tests 235 bash -c run_tests
[ ! -f "$out/pytest.txt" ] || grep -vE ' (PASSED|SKIPPED)' "$out/pytest.txt" | tail -n 120 | tail -c 6000
part bench 240 "$python" -m subsetopt.bench.gpu "$out" ${SUBSETOPT_BENCH:-}
echo "== $out"
cat "$out/parts.txt"
exit "$failed"
