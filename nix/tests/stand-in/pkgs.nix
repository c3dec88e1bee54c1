# The part of nixpkgs' packages that the files of this folder use. Packages are names, and what would be built is a value that
# can be looked at.
{ lib }:
let
  named = name: "/store/${name}";
  format = {
    type = lib.types.anything;
    generate = name: value: { inherit name value; };
  };
in
{
  inherit lib;
  path = "/nixpkgs";
  stdenv.hostPlatform.system = "x86_64-linux";
  formats.toml = _: format;
  formats.json = _: format;
  # What types of nixpkgs take for a package.
  nftables = { type = "derivation"; name = "nftables"; outPath = named "nftables"; };
  erofs-utils = named "erofs-utils";
  e2fsprogs = named "e2fsprogs";
  closureInfo = { rootPaths }: named "closure-of-${toString (map baseNameOf rootPaths)}";
  callPackage = file: _: { type = "derivation"; name = baseNameOf file; outPath = named (baseNameOf file); };
  runCommand = name: variables: script: { inherit name variables script; } // variables.passthru;
}
