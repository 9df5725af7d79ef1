# What the base holds, for collect.sh to compare with: its files, and the names of its Debian packages.
set -eu
sh /tricompose/list.sh | LC_ALL=C sort -z > /tricompose/before
if command -v dpkg-query > /dev/null; then
    dpkg-query -W -f '${Package}\n' | LC_ALL=C sort -u > /tricompose/packages
else
    : > /tricompose/packages
fi
