# Environments of this checkout's own. Sourced, with the checkout as the working directory.

locked=tests/constraints.txt # the versions that the suite was last green with

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# Every python3 that might be here, the one that `python3` names first.
candidates() {
    local version
    type -aP python3 python3.14 python3.13 python3.12 python3.11 || true
    if command -v pyenv >/dev/null; then
        for version in $(pyenv versions --bare 2>/dev/null); do
            printf '%s\n' "$(pyenv root)/versions/$version/bin/python3"
        done
    fi
}

# The interpreters from 3.11 on that really run, one a version: "3.12 /usr/bin/python3.12".
# A shim can be on the PATH with nothing behind it, so each is asked.
pythons() {
    local path found seen=' '
    while read -r path; do
        found=$("$path" -c '
import sys
if sys.version_info >= (3, 11):
    print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null </dev/null) || continue
        if [[ -n $found && $seen != *" ${found%% *} "* ]]; then
            seen+="${found%% *} "
            printf '%s\n' "$found"
        fi
    done < <(candidates)
}

# environment FOLDER PYTHON REQUIREMENT...: an environment with these installed, this checkout in place.
# Made anew for another interpreter; filled again when pyproject.toml or the requirements change.
environment() {
    local folder=$1 python=$2 base filled
    shift 2
    base="$PWD $("$python" -VV 2>&1) $python"
    filled=$(cat pyproject.toml "$locked" - <<<"$*" | cksum)
    if [[ ! -x $folder/bin/python || $(cat "$folder/made-for" 2>/dev/null) != "$base" ]]; then
        say "making $folder with $python"
        rm -rf "$folder"
        bare "$folder" "$python"
        printf '%s\n' "$base" >"$folder/made-for"
    fi
    if [[ $(cat "$folder/filled-with" 2>/dev/null) != "$filled" ]]; then
        say "filling $folder (this takes a minute)"
        fill "$folder" --constraint "$locked" "$@" || {
            say "the versions of $locked are not to be had; taking those that are"
            fill "$folder" "$@" || die "pip could not install $*"
        }
        printf '%s\n' "$filled" >"$folder/filled-with"
    fi
}

fill() {
    local folder=$1
    shift
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

# bare FOLDER PYTHON: an empty environment with pip. Debian splits ensurepip off python3; then the
# pip that is there, if one is, fills the environment from outside.
bare() {
    local folder=$1 python=$2 why
    why=$("$python" -m venv "$folder" 2>&1) && return
    rm -rf "$folder"
    if "$python" -m venv --without-pip "$folder" >/dev/null 2>&1 &&
        "$python" -m pip --python "$folder/bin/python" install --quiet --disable-pip-version-check pip; then
        return
    fi
    rm -rf "$folder"
    "$python" -m virtualenv --quiet "$folder" >/dev/null 2>&1 && return
    rm -rf "$folder"
    say "$why"
    die "$python cannot make an environment. On Debian and Ubuntu: apt-get install python3-venv"
}

# first_python: the interpreter to work with, as "3.11 /usr/bin/python3".
first_python() {
    local first
    read -r first < <(pythons) || true
    [[ -n ${first-} ]] || die "No Python 3.11 or newer is here. On Debian and Ubuntu: apt-get install python3"
    printf '%s\n' "$first"
}
