#!/bin/sh
# Makes a Debian package of the single file, the systemd unit and its user: build.sh RUMORMILL.PYZ VERSION OUT-FOLDER
# The single file holds compiled modules, so the package wants the Python version it was made with.
set -eu
pyz=$1 version=$2 out=$3
here=$(cd "$(dirname "$0")/.." && pwd)
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$(python3 -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

install -D -m 755 "$pyz" "$root/opt/rumormill/bin/rumormill"
install -D -m 644 "$here/systemd/rumormill@.service" "$root/lib/systemd/system/rumormill@.service"
install -D -m 644 "$here/systemd/rumormill.conf" "$root/usr/lib/sysusers.d/rumormill.conf"
install -D -m 644 "$here/../LICENSE" "$root/usr/share/doc/rumormill/copyright"
mkdir -p "$root/usr/bin" "$root/etc/rumormill" "$root/DEBIAN"
ln -s /opt/rumormill/bin/rumormill "$root/usr/bin/rumormill"
cat > "$root/DEBIAN/control" <<END
Package: rumormill
Version: $version
Architecture: $architecture
Maintainer: rumormill
Depends: python3 (>= $python), python3 (<< $next~)
Recommends: systemd
Section: net
Priority: optional
Description: a leaderless pool of AI-inference workers
 The agent that runs beside each worker, its command line, and a systemd unit.
END
cat > "$root/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
if command -v systemd-sysusers > /dev/null; then systemd-sysusers rumormill.conf; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
END
chmod 755 "$root/DEBIAN/postinst"
# One time stamp for all files, so that the same input gives the same bytes.
find "$root" -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +
dpkg-deb --root-owner-group --build "$root" "$out/rumormill_${version}_$architecture.deb"
