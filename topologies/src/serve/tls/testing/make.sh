#!/bin/sh
# Makes the certificates that the tests show each other, valid from 2020 to 2120. They are worth nothing anywhere else.
#
#   authority   signs the server, and the clients `dashboards`, which has names, and `unnamed`, which has another one
#   stranger    signs `forged`, which has the names of `dashboards`
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir certificates
: > index.txt
echo 01 > serial
cat > openssl.cnf <<'END'
[ca]
default_ca = tests
[tests]
new_certs_dir = certificates
database = index.txt
serial = serial
default_md = sha256
policy = any
unique_subject = no
[any]
organizationName = supplied
commonName = supplied
END

# sign NAME AUTHORITY COMMON-NAME EXTENSIONS
sign() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/O=isobar tests/CN=$3" \
        -keyout "$1.key" -out "$1.csr"
    printf 'subjectKeyIdentifier=hash\n%b\n' "$4" > "$1.ext"
    if [ "$1" = "$2" ]; then signer="-selfsign -keyfile $1.key"; else signer="-cert $2.pem -keyfile $2.key"; fi
    # shellcheck disable=SC2086
    openssl ca -config openssl.cnf -batch -notext $signer -startdate 20200101000000Z -enddate 21200101000000Z \
        -extfile "$1.ext" -in "$1.csr" -out "$1.pem"
    cp "$1.pem" "$folder/"
    if [ "$1" != "$2" ]; then cp "$1.key" "$folder/"; fi
}

for authority in authority stranger; do
    sign $authority $authority $authority 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign'
done
leaf='basicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid'
client="$leaf\nextendedKeyUsage=clientAuth"
sign server authority server "$leaf\nextendedKeyUsage=serverAuth\nsubjectAltName=IP:127.0.0.1,DNS:localhost"
names='URI:spiffe://example.com/dashboards,DNS:Dashboards.example.com,email:dashboards@example.com,IP:10.0.0.1'
sign dashboards authority dashboards "$client\nsubjectAltName=$names"
sign unnamed authority 'somebody else' "$client"
sign forged stranger dashboards "$client\nsubjectAltName=$names"
