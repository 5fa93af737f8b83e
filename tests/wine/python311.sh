# Sourced: $python311 becomes a CPython 3.11 of this machine, whose standard library and headers serve Windows too.

python311=
for candidate in python3.11 python3 /usr/bin/python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        python311=$candidate
        break
    fi
done
if [ -z "$python311" ]; then
    echo "CPython 3.11 is needed. On Debian 12: apt-get install python3.11-dev python3.11-venv" >&2
    exit 1
fi
