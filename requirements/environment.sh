#!/usr/bin/env bash
# Makes .venv from the pins in this folder; does nothing when it is already as they say.
#
#   requirements/environment.sh            make or repair .venv
#   requirements/environment.sh pins ...   recompile cpu.txt and gpu.txt ("pins --upgrade": to the newest versions)
#
#   BACKEND=cpu|gpu   which build; by default the one .venv has, for a new .venv gpu if there is an NVIDIA GPU
#   PYTHON=...        the Python 3.11 to use
#   DRY_RUN=1         print the commands instead of running them
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv_version=0.13.9
stamp=.venv/.made-from
quiet=()
if [[ ! -t 2 ]]; then quiet=(--quiet); fi # progress is for people

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

find_python() {
    local candidate candidates=(python3.11 python3 python)
    local PATH=${PATH//"$PWD/.venv/bin:"/} # an activated .venv cannot be made from itself
    if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "${PYTHON:-python3.11} is not a Python 3.11 that runs: install Python 3.11, or say where it is (make env PYTHON=/path/to/python3.11)"
}

hash_of() {
    sha256sum | cut -d " " -f 1
}

has_gpu() {
    nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

# The parts of a pip setting, whether it comes from the environment or from pip's configuration files.
pip_setting() {
    local variable=PIP_${1^^} python=.venv/bin/python
    variable=${variable//-/_}
    [[ -x $python ]] || python=$(find_python)
    echo "${!variable:-$("$python" -m pip config get "global.$1" 2>/dev/null || true)}"
}

# uv reads none of pip's settings, so a machine set up for pip (a mirror, a folder of wheels, a certificate) needs them handed over.
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

# Is the CPU build of the pinned torch in a find-links folder?
has_cpu_torch_wheel() {
    local version folder folders
    version=$(sed -n 's/^torch==//p' requirements/cpu.txt)
    IFS=, read -ra folders <<<"$UV_FIND_LINKS"
    for folder in "${folders[@]}"; do
        if compgen -G "${folder#file://}/torch-$version+cpu-cp311-*.whl" >/dev/null; then return; fi
    done
    return 1
}

# Sets `torch_backend`, the uv arguments that find the right build of torch.
choose_torch() {
    torch_backend=()
    if has_cpu_torch_wheel; then
        # Its version (+cpu) counts as newer than the plain one: right for cpu, never for gpu.
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

make_venv() {
    local python
    python=$(find_python)
    run "$python" -m venv --clear .venv || die "$python could not make .venv (on Debian and Ubuntu: install python3.11-venv)"
}

install_pins() {
    run .venv/bin/python -m pip install --quiet "uv==$uv_version"
    hand_over_pip_settings
    choose_torch "$1"
    if ((${#torch_backend[@]})); then
        # torch alone, first: the argument would send uv to PyTorch's index for triton too, where the pinned one may be missing.
        uv_pip install "${quiet[@]}" --python .venv/bin/python --no-deps "${torch_backend[@]}" "$(grep '^torch==' requirements/cpu.txt)"
    fi
    # The pins are complete: they are installed as they stand, without resolving anew. Each stage starts processes that
    # import vLLM and torch, which takes twice as long where nothing is compiled (as with PYTHONDONTWRITEBYTECODE).
    uv_pip sync "${quiet[@]}" --compile-bytecode --python .venv/bin/python "requirements/$1.txt"
}

install_package() {
    uv_pip install --python .venv/bin/python --quiet --no-deps --no-build-isolation --editable .
}

# Where torch comes from must not show in the pins: they serve machines with and without a folder of wheels.
compile() {
    local backend=$1
    shift
    choose_torch "$backend"
    uv_pip compile pyproject.toml --extra "$backend" --extra dev --python-version 3.11 \
        --python-platform x86_64-manylinux_2_28 --no-annotate --custom-compile-command "make pins" \
        "${torch_backend[@]}" --output-file "requirements/$backend.txt" --quiet "$@"
    run sed -i 's/^\(torch==[^+]*\)+cpu$/\1/' "requirements/$backend.txt"
}

if [[ ${1:-} == pins ]]; then
    shift
    hand_over_pip_settings
    compile cpu --overrides requirements/overrides.txt "$@"
    compile gpu "$@"
    exit
fi

# One at a time: two commands of make may want the environment at once.
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

# Begin anew when .venv is only half made (no stamp), was moved (its scripts hold the place's name), or holds the other
# backend (its torch would satisfy the pin and stay).
run rm -f "$stamp"
if [[ "$made_backend $made_place" != "$backend $PWD" ]]; then
    echo "Making .venv ($backend) from requirements/$backend.txt: some minutes the first time"
    make_venv
fi
if [[ "$made_backend $made_place $made_pins" != "$backend $PWD $pins" ]]; then
    install_pins "$backend"
fi
install_package
if [[ -z ${DRY_RUN:-} ]]; then
    printf '%s\n' "$backend" "$PWD" "$pins" "$project" >"$stamp"
fi
