#!/bin/sh
# Install Homeroom on a 64-bit Raspberry Pi: its own user, its own environment, hardened services. Run it as root.
#
#     sudo ./install.sh [--bundle FILE] [--root-key FINGERPRINT] [--wheels FOLDER] [--camera] [--microphone]
#     sudo ./install.sh --uninstall            pupils' data, keys and the user stay
#     sudo ./install.sh --uninstall --purge    they go too, for good
#
# Run again after an update of this folder, or after a power cut: what is there is left, what is missing is made, and the
# new environment takes the old one's place in one step. --wheels: packages from that folder, without a network.
# PYTHON=… names another Python; INTO=FOLDER puts everything below that folder and touches nothing of the system.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$(dirname "$here")")
into=${INTO:-}
opt=$into/opt/homeroom state=$into/var/lib/homeroom keys=$into/var/lib/homeroom-keys share=$into/srv/homeroom
units=$into/etc/systemd/system
agent=homeroom-classroom.service first=homeroom-first-boot.service ssh=homeroom-ssh-keys.service
bundle='' root_key='' wheels='' camera='' microphone='' uninstall='' purge=''

say() { echo "homeroom: $*"; }
refuse() { echo "error: $*" >&2; exit 1; }
system() { [ -n "$into" ] || "$@"; } # what only a real installation does

while [ $# -gt 0 ]; do
    case $1 in
        --bundle | --root-key | --wheels) [ $# -gt 1 ] || refuse "$1 needs a value" ;;
    esac
    case $1 in
        --bundle) bundle=$2 && shift ;;
        --root-key) root_key=$2 && shift ;;
        --wheels) wheels=$2 && shift ;;
        --camera) camera=yes ;;
        --microphone) microphone=yes ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit ;;
        *) refuse "there is no option $1; --help lists them" ;;
    esac
    shift
done

[ -n "$into" ] || [ "$(id -u)" = 0 ] || refuse "an installation is made by root: sudo $0"
[ -z "$purge" ] || [ -n "$uninstall" ] || refuse "--purge goes with --uninstall only"

if [ -n "$uninstall" ]; then
    system systemctl disable --now $agent $ssh 2>/dev/null || true
    rm -f "$units/$agent" "$units/$first" "$units/$ssh"
    system systemctl daemon-reload
    rm -rf "$opt"
    if [ -n "$purge" ]; then
        rm -rf "$keys" # first: without the key, nothing of the rest can be read
        rm -rf "$state" "$share" "$into/etc/homeroom"
        if id -u homeroom >/dev/null 2>&1; then system userdel homeroom; fi
        say "removed, with all pupils' data and keys"
    else
        say "removed; pupils' data stay in $state, their key in $keys, the inbox in $share"
    fi
    exit
fi

# What this machine is
[ "$(getconf LONG_BIT)" = 64 ] || refuse "this is a 32-bit system, which Homeroom cannot run on; install the 64-bit Raspberry Pi OS"
[ "$(uname -m)" = aarch64 ] || refuse "this script is for arm64, and this is $(uname -m); elsewhere: pip install . (README.md)"
python=${PYTHON:-python3}
usable='import sys, venv, ensurepip, struct; sys.exit(struct.calcsize("P") < 8 or not (3, 11) <= sys.version_info)'
"$python" -c "$usable" 2>/dev/null || refuse "64-bit Python 3.11 or newer with venv is missing: sudo apt install python3-venv"
[ -z "$bundle" ] || [ -e "$bundle" ] || refuse "$bundle: there is no such bundle"
[ -z "$wheels" ] || [ -d "$wheels" ] || refuse "$wheels: there is no such folder"

# Packages of the system: only what was asked for
wanted=''
[ -z "$camera" ] || command -v rpicam-still >/dev/null || wanted="$wanted rpicam-apps"
[ -z "$microphone" ] || command -v arecord >/dev/null || wanted="$wanted alsa-utils"
# shellcheck disable=SC2086  # a list of packages
[ -z "$wanted" ] || system apt-get install -y $wanted

# User and folders
if ! id -u homeroom >/dev/null 2>&1; then
    system useradd --system --home-dir /var/lib/homeroom --no-create-home --shell /usr/sbin/nologin homeroom
fi
groups=${camera:+video}${camera:+${microphone:+,}}${microphone:+audio}
[ -z "$groups" ] || system usermod -aG "$groups" homeroom
mkdir -p "$opt/releases" "$state" "$keys" "$share/inbox" "$units" "$into/etc/homeroom"
chmod 0700 "$state" "$keys"
chmod 2770 "$share" "$share/inbox"
system chown homeroom:homeroom "$state" "$keys" "$share" "$share/inbox"

# The environment: one folder a release, named by what is in it; half a release is made anew
id=$(cd "$project" && find pyproject.toml README.md sdk exporter aggregator examples/raspberry_pi/wheels-arm64.txt -type f \
    ! -name '*.pyc' | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16)
release=$opt/releases/$id
if [ -e "$release/.complete" ]; then
    say "this version is installed already"
else
    rm -rf "$release"
    "$python" -m venv "$release"
    "$release/bin/python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        ${wheels:+--no-index --find-links "$wheels"} -r "$here/wheels-arm64.txt"
    built=$(mktemp -d)
    (cd "$project" && tar cf - --exclude __pycache__ pyproject.toml README.md sdk exporter aggregator) | tar xf - -C "$built"
    "$release/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-index --no-build-isolation "$built"
    rm -rf "$built"
    "$release/bin/homeroom" --version >/dev/null || refuse "what was installed does not start; nothing was changed"
    touch "$release/.complete"
    sync
fi
ln -sfn "releases/$id" "$opt/venv.new"
mv -fT "$opt/venv.new" "$opt/venv"
for other in "$opt"/releases/*; do
    [ "$other" = "$release" ] || rm -rf "$other"
done
cp "$here/classroom.py" "$here/README.md" "$here/seal-card.sh" "$opt/"
chmod 0755 "$opt/classroom.py" "$opt/seal-card.sh"

# The bundle and its root, for the first boot
[ -z "$bundle" ] || cp "$bundle" "$share/bundle.homeroom"
[ -z "$root_key" ] || echo "ROOT_KEY=--root=$root_key" >"$into/etc/homeroom/first-boot.conf"

# The services
cp "$here/$agent" "$here/$first" "$here/$ssh" "$units/"
system systemctl daemon-reload
system systemctl enable $agent $ssh
if [ -e "$share/bundle.homeroom" ] || [ -e "$state/device.json" ]; then
    system systemctl restart $agent
    say "installed, and running; how it stands: homeroom device agent (README.md)"
else
    say "installed; put the bundle there as /srv/homeroom/bundle.homeroom, then: sudo systemctl start $agent"
fi
