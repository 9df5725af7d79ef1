# Removes Debian packages that no server needs, by patterns of their names, unless the base has them: what lies in its
# layers takes up room whether it is hidden or not. Nothing is asked of a network.
set -eu
command -v dpkg-query > /dev/null || exit 0
dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' "$@" 2> /dev/null | sed -n 's/^ii //p' | LC_ALL=C sort -u \
    | LC_ALL=C comm -23 - /tricompose/packages > /tricompose/unneeded
xargs -r dpkg --purge --force-depends < /tricompose/unneeded
