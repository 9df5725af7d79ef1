# Puts all that differs from the base into /tricompose/collected, with owner, mode, time, links and attributes as they
# are, and the folders above it. The paths that are gone are listed in its file .removed. Arguments: what stays out,
# as conditions of find.
set -eu
mkdir /tricompose/collected
sh /tricompose/list.sh "$@" | LC_ALL=C sort -z > /tricompose/after
paths() { sed -z 's/^\([^ ]* \)\{6\}//; s/\x01.*//'; }

# New or changed files; of these only what is needed, where closure.sh has found that out.
LC_ALL=C comm -z -13 /tricompose/before /tricompose/after | paths > /tricompose/changed
if [ -f /tricompose/needed ]; then
    always='^\./(opt/(tritonserver|nvidia)|usr/bin/(python3[^/]*|serve)|usr/(local/)?lib/python3[^/]*|etc/ld\.so\.conf\.d'
    always=$always'|etc/g?(passwd|group|shadow))(/|$)'
    { grep -zxFf /tricompose/needed /tricompose/changed || true; grep -zE "$always" /tricompose/changed || true; } \
        > /tricompose/chosen
else
    mv /tricompose/changed /tricompose/chosen
fi

# Each folder above them too: COPY gives folders that are there already the metadata of those that it brings.
sed -nz ':up; /\//{p; s,/[^/]*$,,; b up}; p' /tricompose/chosen | LC_ALL=C sort -zu > /tricompose/listed
tar -C / --null --no-recursion --files-from=/tricompose/listed --numeric-owner --xattrs --xattrs-include='*' -cf - \
    | tar -C /tricompose/collected --numeric-owner --xattrs --xattrs-include='*' -xpf -

if [ -f /tricompose/needed ]; then
    : > /tricompose/collected/.removed
else
    paths < /tricompose/before | LC_ALL=C sort -z > /tricompose/paths-before
    paths < /tricompose/after | LC_ALL=C sort -z > /tricompose/paths-after
    LC_ALL=C comm -z -23 /tricompose/paths-before /tricompose/paths-after > /tricompose/collected/.removed
fi
