// Compiles src/ into artifacts/, which the Rust build reads, so that it needs no node.
//
//   node build.mjs           writes the artifacts
//   node build.mjs --check   compares instead, and names every file that differs
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const root = dirname(fileURLToPath(import.meta.url));
const check = process.argv.includes("--check");
// What is deployed; everything else is compiled along, so that it stays compilable.
const wanted = ["DigitReader", "DigitGate", "SemanticBounty", "Teller", "Shim", "Probe"];
const settings = {
    evmVersion: "cancun",
    optimizer: { enabled: true, runs: 200 },
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
};

const texts = readdirSync(join(root, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".sol"))
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
const sources = Object.fromEntries(texts.map((path) => [path, { content: readFileSync(join(root, path), "utf8") }]));
const output = JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources, settings })));
for (const { formattedMessage } of output.errors ?? []) console.error(formattedMessage);
if (output.errors?.length) process.exit(1);

// Equal for equal sources, whatever the order in which a file system lists them.
const sourceHash = createHash("sha256");
for (const path of texts) sourceHash.update(`${path}\0${sources[path].content}\0`);
const shared = { compiler: solc.version(), evmVersion: settings.evmVersion, optimizerRuns: 200, sourceHash: sourceHash.digest("hex") };

mkdirSync(join(root, "artifacts"), { recursive: true });
const built = new Map();
for (const [path, contracts] of Object.entries(output.contracts)) {
    for (const [name, contract] of Object.entries(contracts)) {
        if (!wanted.includes(name)) continue;
        const artifact = {
            contract: name,
            source: path,
            ...shared,
            abi: contract.abi,
            bytecode: `0x${contract.evm.bytecode.object}`,
            runtime: `0x${contract.evm.deployedBytecode.object}`,
        };
        built.set(`${name}.json`, `${JSON.stringify(artifact, null, 2)}\n`);
    }
}
for (const name of wanted) {
    if (!built.has(`${name}.json`)) {
        console.error(`no source declares ${name}`);
        process.exit(1);
    }
}

let stale = readdirSync(join(root, "artifacts")).filter((file) => !built.has(file));
for (const [file, text] of built) {
    const path = join(root, "artifacts", file);
    if (!check) writeFileSync(path, text);
    else if (!readdirSync(join(root, "artifacts")).includes(file) || readFileSync(path, "utf8") !== text) stale.push(file);
}
if (stale.length) {
    for (const file of stale) console.error(`contracts/artifacts/${file} is not what the sources give`);
    if (check) console.error("run `node contracts/build.mjs`");
    process.exit(1);
}
console.log(`contracts: ${built.size} artifacts ${check ? "as the sources give them" : "written"}`);
