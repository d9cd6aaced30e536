#!/usr/bin/env bash
# Collect what a GPU machine with its own PyTorch usually lacks, as wheels that install offline.
#
#   bash tests/gpu/wheels.sh DIR          (here, with a connection; about 10 MB)
#   python3 -m pip install --no-index --no-deps --no-compile --target SITE DIR/*.whl        (there)
#   export PYTHONPATH=SITE:$PWD:$PWD/cli                                                    (there, in this checkout)
#
# PYTHON_VERSION is that of the GPU machine, 3.12 unless set. Versions are those of constraints.txt.
set -euo pipefail

directory=${1:?usage: bash tests/gpu/wheels.sh DIR}
root=$(cd "$(dirname "$0")/../.." && pwd)
version=${PYTHON_VERSION:-3.12}

packages=(pydantic pydantic_core annotated-types typing-inspection tomli_w pytest-timeout)
pinned=(pytorch_optimizer==4.1.0)  # SOAP, for the benchmark alone
for package in "${packages[@]}"; do
    pin=$(grep -i "^${package}==" "$root/constraints.txt") || { echo "$package is not in constraints.txt" >&2; exit 1; }
    pinned+=("$pin")
done

mkdir -p "$directory"
rm -f "$directory"/*.whl
platforms=()
for platform in manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64; do
    platforms+=(--platform "$platform")
done
python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
    --python-version "$version" "${platforms[@]}" --dest "$directory" "${pinned[@]}"
du -sh "$directory"
