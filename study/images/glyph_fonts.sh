#!/bin/sh
# Install the Debian packages of glyphs.csv: in the versions it names where apt has them, else in what apt has,
# told in a line each. What is installed stays as it is.
set -eu

wanted=$(sed '/^#/d; /^package,/d' "$(dirname "$0")/glyphs.csv" | cut -d, -f1,2 --output-delimiter== | sort -u)
names=$(echo "$wanted" | cut -d= -f1)
# shellcheck disable=SC2016,SC2086 # fields of dpkg's; a list of names
installed=$(dpkg-query -W -f='${db:Status-Status}=${Package}=${Version}\n' $names 2>/dev/null | sed -n 's/^installed=//p')
# shellcheck disable=SC2086
offered=$(apt-cache madison $names | sed -E 's/^ *([^ ]+) *\| *([^ ]+) .*/\1=\2/')
missing=""
for package in $wanted; do
    name=${package%%=*}
    if echo "$installed" | grep -q "^$name="; then
        echo "$installed" | grep -qxF "$package" || echo "$name: another version is installed than $package"
    elif echo "$offered" | grep -qxF "$package"; then
        missing="$missing $package"
    elif echo "$offered" | grep -q "^$name="; then
        echo "$name: apt has another version than $package, which is installed instead"
        missing="$missing $name"
    else
        echo "$name: apt has no such package; Debian 12 has it"
    fi
done
if [ -n "$missing" ]; then
    echo "installing $(echo "$missing" | wc -w) packages of fonts through apt, once"
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
