// Loaded before Azurite. Every ten minutes its collector of unused blocks compares everything that was ever stored, on the
// only thread there is: with tens of thousands of objects in memory it answers nobody for minutes. The drills take one
// cloud away on purpose, and must not lose a second one by that. Nothing here lives long enough to need a collector.
"use strict";
const path = require("node:path");

const constants = require(path.join(path.dirname(process.argv[1]), "utils", "constants.js"));
constants.DEFAULT_GC_INTERVAL_MS = 0x7fffffff; // The longest that a timer waits: 24 days.
