#!/bin/sh
# The system libraries that Qt and OpenGL need to draw napari, and a virtual screen with
# somebody at its mouse for tests: installed where apt runs as root, else named in one command to type.
set -eu
packages="xvfb xauth xdotool libegl1 libgl1 libglx-mesa0 libgl1-mesa-dri libopengl0 libdbus-1-3 libfontconfig1
libglib2.0-0 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1
libxcb-render-util0 libxcb-randr0 libxcb-shape0 libxcb-xkb1 libxcb-xfixes0 libxcb-sync1"

command -v dpkg-query >/dev/null 2>&1 || exit 0 # not Debian: the desktop brings its own
missing=""
for package in $packages; do
    # Newer releases rename some of them, as in libglib2.0-0t64.
    dpkg-query -W -f='${Status}\n' "$package" "${package}t64" 2>/dev/null | grep -q "install ok installed" \
        || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "napari needs system libraries that are not installed; everything else works without. To install them:"
    echo "  sudo apt-get install -y --no-install-recommends$missing"
fi
