# Options for the keys of `worker.toml`, made from the schema that the program itself prints:
#
#   procurator-worker schema worker-config >nix/worker-config.json
#
# An option that is not set, or `null`, is left out of the file, so that the program's default holds. A test of the program
# compares the file with what it prints.
{ lib }:
let
  inherit (lib) types;

  # A JSON Schema's pattern is looked for, and Nix wants the whole text to match.
  wholeText =
    pattern:
    let
      begun = if lib.hasPrefix "^" pattern then lib.removePrefix "^" pattern else ".*" + pattern;
    in
    if lib.hasSuffix "$" begun then lib.removeSuffix "$" begun else begun + ".*";

  typeOf =
    schema:
    if schema ? anyOf then
      types.oneOf (map typeOf schema.anyOf)
    else if schema ? const then
      types.enum [ schema.const ]
    else if schema ? enum then
      types.enum schema.enum
    else
      {
        boolean = types.bool;
        integer = types.ints.between schema.minimum schema.maximum;
        number = types.numbers.between schema.minimum schema.maximum;
        string = if schema ? pattern then types.strMatching (wholeText schema.pattern) else types.str;
        array = types.listOf (typeOf schema.items);
        object =
          if schema.additionalProperties or false != false then
            types.attrsOf (typeOf schema.additionalProperties)
          else
            types.submodule { options = lib.mapAttrs (_: optionOf) schema.properties; };
      }
      .${schema.type};

  optionOf =
    schema:
    if schema.type or "" == "object" then
      lib.mkOption {
        type = typeOf schema;
        default = { };
        description = schema.description or "A table of the configuration file.";
      }
    else
      lib.mkOption (
        {
          type = types.nullOr (typeOf schema);
          default = null;
          inherit (schema) description;
        }
        // lib.optionalAttrs (schema ? default) {
          defaultText = lib.literalExpression (builtins.toJSON schema.default);
        }
      );

  # What was set: neither `null` nor a table in which nothing is.
  withoutAbsent =
    settings:
    lib.filterAttrs (_: value: value != null && value != { }) (
      lib.mapAttrs (_: value: if builtins.isAttrs value then withoutAbsent value else value) settings
    );

  schema = builtins.fromJSON (builtins.readFile ./worker-config.json);
in
{
  type = typeOf schema;
  inherit withoutAbsent;
}
