#!/usr/bin/env bash
# A folder -> the place of ONNX Runtime's C headers, printed; or why there are none, and exit status 1.
#
# In order: $ONNXRUNTIME_INCLUDE_DIR, the system's, what was unpacked in the folder before, and on Debian the package
# libonnxruntime-dev, unpacked there without installing it. Releases before trixie lack it, so that trixie's is taken
# from the mirror that the system itself uses.
set -euo pipefail

readonly header=onnxruntime_c_api.h package=libonnxruntime-dev suite=trixie
readonly keys=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
    echo "no ONNX Runtime headers: $1; give their folder as ONNXRUNTIME_INCLUDE_DIR" >&2
    exit 1
}

if [[ -n ${ONNXRUNTIME_INCLUDE_DIR:-} ]]; then
    [[ -f $ONNXRUNTIME_INCLUDE_DIR/$header ]] || fail "$ONNXRUNTIME_INCLUDE_DIR has no $header"
    realpath "$ONNXRUNTIME_INCLUDE_DIR"
    exit
fi

mkdir -p "$1"
folder=$(realpath "$1")
for place in /usr/include/onnxruntime /usr/local/include/onnxruntime "$folder"; do
    if [[ -f $place/$header ]]; then
        echo "$place"
        exit
    fi
done

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "this is no Debian"
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v release="$codename" '$1 == release && $2 == "main" && !found++ { print $3 }')
[[ -n $mirror && -f $keys ]] || fail "no Debian mirror among the sources of apt"

work=$(mktemp -d "$folder/apt-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists,cache/archives}/partial
echo "deb [signed-by=$keys] $mirror $suite main" >"$work/sources.list"
cat >"$work/apt.conf" <<CONF
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$work/lists";
Dir::Cache "$work/cache";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "20";
APT::Sandbox::User "";
CONF
export APT_CONFIG=$work/apt.conf
cd "$work"
{ timeout 300 apt-get update -qq && timeout 120 apt-get download -qq $package; } >log 2>&1 ||
    fail "apt cannot fetch $package of $suite from $mirror ($(tail -n 1 log))"
dpkg-deb -x ./$package*.deb unpacked
mv unpacked/usr/include/onnxruntime/*.h "$folder/"
echo "$folder"
