# "ok" where all holds, by the module system of `lib`; else an error that names what does not.
{ lib }:
let
  results = import ./evaluation.nix { inherit lib; };
  broken = builtins.filter (name: !results.${name}) (builtins.attrNames results);
in
if broken == [ ] then "ok" else throw "does not hold: ${builtins.concatStringsSep ", " broken}"
