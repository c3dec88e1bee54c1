# The part of nixpkgs' `lib` that the files of this folder use, by the same names and of the same meaning: options with types
# that check, modules that are merged, priorities. It lets modules be evaluated where nixpkgs is not at hand; what it says of
# them nixpkgs says too, but not the other way round.
let
  inherit (builtins)
    all
    attrNames
    concatLists
    concatMap
    elem
    filter
    foldl'
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isString
    length
    listToAttrs
    mapAttrs
    match
    stringLength
    substring
    tail
    ;
in
rec {
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  hasSuffix =
    suffix: text:
    stringLength text >= stringLength suffix
    && substring (stringLength text - stringLength suffix) (stringLength suffix) text == suffix;
  removePrefix = prefix: text: substring (stringLength prefix) (stringLength text) text;
  removeSuffix = suffix: text: substring 0 (stringLength text - stringLength suffix) text;
  optional = condition: value: if condition then [ value ] else [ ];
  optionalAttrs = condition: value: if condition then value else { };
  optionalString = condition: value: if condition then value else "";
  inherit mapAttrs;
  filterAttrs =
    wanted: set:
    listToAttrs (
      concatMap (name: optional (wanted name set.${name}) { inherit name; value = set.${name}; }) (attrNames set)
    );
  recursiveUpdate =
    left: right:
    if isAttrs left && isAttrs right then
      left // mapAttrs (name: value: if left ? ${name} then recursiveUpdate left.${name} value else value) right
    else
      right;
  literalExpression = text: { _type = "literalExpression"; inherit text; };

  # Priorities: the lowest wins.
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };

  mkOption = option: { _type = "option"; } // option;
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      description = "Whether to enable ${what}.";
    };

  # A type has a name and says of a value what it is as one; `null` where it is none.
  types = rec {
    plain = name: check: { inherit name check; merge = path: values: only path values; };
    only = path: values: if all (value: value == head values) values then head values else throw "${path} has several values";
    bool = plain "bool" isBool;
    str = plain "str" isString;
    package = plain "package" (value: isAttrs value || isString value);
    anything = plain "anything" (_: true);
    ints.between = low: high: plain "int from ${toString low} to ${toString high}" (v: isInt v && v >= low && v <= high);
    numbers.between =
      low: high: plain "number from ${toString low} to ${toString high}" (v: (isInt v || builtins.isFloat v) && v >= low && v <= high);
    enum = values: plain "one of ${builtins.toJSON values}" (value: elem value values);
    strMatching = pattern: plain "text like ${pattern}" (value: isString value && match pattern value != null);
    nullOr = type: type // {
      name = "null or ${type.name}";
      check = value: value == null || type.check value;
      merge = path: values: if all (value: value == null) values then null else type.merge path values;
    };
    oneOf = members: plain (builtins.concatStringsSep " or " (map (type: type.name) members)) (value: builtins.any (type: type.check value) members);
    listOf = type: {
      name = "list of ${type.name}";
      check = value: isList value && all type.check value;
      merge = _: concatLists;
    };
    attrsOf = type: {
      name = "set of ${type.name}";
      check = value: isAttrs value && all (name: type.check value.${name}) (attrNames value);
      merge = path: values: mapAttrs (name: found: type.merge "${path}.${name}" found) (collect values);
    };
    submodule = module: {
      name = "submodule";
      check = isAttrs;
      merge = path: values: evaluateOptions path module.options values;
    };
  };

  # Every name of several sets, with the values that they have.
  collect = all: foldl' (found: set: found // mapAttrs (name: value: (found.${name} or [ ]) ++ [ value ]) set) { } all;

  isOption = value: isAttrs value && value._type or "" == "option";

  # The sets that a definition of several options is made of. Conditions go down to the single options: which names there are
  # must not depend on them, because they depend on options.
  sets =
    value:
    if value._type or "" == "if" then
      map (mapAttrs (_: mkIf value.condition)) (sets value.content)
    else if value._type or "" == "merge" then
      concatMap sets value.contents
    else
      [ value ];

  # What `mkIf` and `mkMerge` leave of a definition of one option.
  resolve =
    value:
    if !isAttrs value then
      [ value ]
    else if value._type or "" == "if" then
      if value.condition then resolve value.content else [ ]
    else if value._type or "" == "merge" then
      concatMap resolve value.contents
    else
      [ value ];

  priorityOf = value: if isAttrs value && value._type or "" == "override" then value.priority else 100;
  contentOf = value: if isAttrs value && value._type or "" == "override" then value.content else value;

  evaluateOptions =
    path: options: definitions:
    let
      found = collect (concatMap sets definitions);
      unknown = filter (name: !(options ? ${name})) (attrNames found);
      evaluated =
        name: option:
        let
          at = if path == "" then name else "${path}.${name}";
        in
        if isOption option then evaluateOption at option (found.${name} or [ ]) else evaluateOptions at option (found.${name} or [ ]);
    in
    if unknown != [ ] then throw "there is no option ${path}.${head unknown}" else mapAttrs evaluated options;

  evaluateOption =
    path: option: definitions:
    let
      resolved = concatMap resolve definitions;
      least = foldl' (least: value: if priorityOf value < least then priorityOf value else least) 10000 resolved;
      values = map contentOf (filter (value: priorityOf value == least) resolved);
      type = option.type or types.anything;
      wrong = filter (value: !(type.check value)) values;
    in
    if values == [ ] then
      # A default of a table is completed by the options in it.
      if option ? default then type.merge path [ option.default ] else throw "${path} is not set"
    else if wrong != [ ] then
      throw "${path} is ${builtins.toJSON (head wrong)}: ${type.name} is accepted"
    else
      type.merge path values;

  # Modules as nixpkgs has them: functions or sets with `imports`, `options` and `config`.
  evalModules =
    { modules, specialArgs ? { } }:
    let
      arguments = specialArgs // { inherit config lib; };
      lib = import ./lib.nix;
      load =
        module:
        let
          loaded = if isFunction module then module arguments else if isAttrs module then module else load' (import module);
          load' = imported: if isFunction imported then imported arguments else imported;
          isSplit = loaded ? config || loaded ? options;
          rest = removeAttrs loaded [ "imports" "options" "config" ];
        in
        concatMap load (loaded.imports or [ ])
        ++ [ { options = loaded.options or { }; config = if isSplit then loaded.config or { } else rest; } ];
      loaded = concatMap load modules;
      options = foldl' recursiveUpdate { } (map (module: module.options) loaded);
      config = evaluateOptions "" options (map (module: module.config) loaded);
    in
    { inherit config options; };
}
