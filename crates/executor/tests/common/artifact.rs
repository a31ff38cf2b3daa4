//! The contracts, as `contracts/build.mjs` compiled them, and their calls.

use alloy_primitives::hex;
use alloy_sol_types::SolValue as _;
use serde_json::Value;

fn field(artifact: &str, name: &str) -> Vec<u8> {
    let artifact: Value = serde_json::from_str(artifact).unwrap();
    hex::decode(artifact[name].as_str().unwrap()).unwrap()
}

fn with(artifact: &str, arguments: Vec<u8>) -> Vec<u8> {
    [field(artifact, "bytecode"), arguments].concat()
}

/// Creation code of a gate for a digit.
pub(crate) fn digit_gate(model: alloy_primitives::B256, digit: u8) -> Vec<u8> {
    let arguments = (model, alloy_primitives::U256::from(digit)).abi_encode_params();
    with(include_str!("../../../../contracts/artifacts/DigitGate.json"), arguments)
}

/// Creation code of a bounty contract for texts that begin with 101 and end with 102.
pub(crate) fn semantic_bounty(model: alloy_primitives::B256) -> Vec<u8> {
    let arguments = (model, 101_u32, 102_u32).abi_encode_params();
    with(include_str!("../../../../contracts/artifacts/SemanticBounty.json"), arguments)
}

/// Creation code of a contract that has a model go on with texts.
pub(crate) fn teller(model: alloy_primitives::B256, end_id: u32) -> Vec<u8> {
    let arguments = (model, end_id).abi_encode_params();
    with(include_str!("../../../../contracts/artifacts/Teller.json"), arguments)
}

/// Creation code of the contract that calls under every kind of call.
pub(crate) fn probe() -> Vec<u8> {
    field(include_str!("../../../../contracts/artifacts/Probe.json"), "bytecode")
}

/// Code of the probe, for placing it without a transaction.
pub(crate) fn probe_runtime() -> Vec<u8> {
    field(include_str!("../../../../contracts/artifacts/Probe.json"), "runtime")
}

alloy_sol_types::sol! {
    #[derive(Debug, PartialEq)]
    interface DigitGate {
        event Entered(address indexed visitor, uint256 indexed number, bytes32 imageHash);
        error NotADigit(uint8 got);
        error NotAnImage(uint256 gotBytes, uint256 wantBytes);
        error NotAPixel(uint256 index, int32 got, int32 max);
        error ImageShown(bytes32 imageHash, address by);
        error WrongDigit(uint256 got, uint256 want);
        function enter(bytes calldata pixels) external returns (uint256 number);
        function read(bytes calldata pixels) external view returns (uint256 digit);
        function ticketOf(address visitor) external view returns (uint256 number);
    }

    #[derive(Debug, PartialEq)]
    interface SemanticBounty {
        event Asked(uint256 indexed id, address indexed asker, uint256 reward, bytes tokens, bytes embedding);
        event Answered(uint256 indexed id, address indexed answerer, int256 cosineQ15, bytes tokens);
        error NoReward();
        error BoundsInvalid(int32 floorQ15, int32 ceilingQ15);
        error DeadlinePassed(uint64 deadline, uint256 time);
        error DeadlineNotPassed(uint64 deadline, uint256 time);
        error NotOpen(uint256 id);
        error NotYours(uint256 id, address asker);
        error NotAText(uint256 gotBytes);
        error NotCommitted(bytes32 commitment);
        error CommittedInThisBlock(bytes32 commitment);
        error AlreadyCommitted(bytes32 commitment);
        error WrongEmbedding(bytes32 got, bytes32 want);
        error TooFar(int256 cosineQ15, int256 floorQ15);
        error TooNear(int256 cosineQ15, int256 ceilingQ15);
        error NothingOwed(address account);
        error TransferFailed(address account, uint256 amount);
        function ask(bytes calldata tokens, int32 floorQ15, int32 ceilingQ15, uint64 deadline) external payable returns (uint256 id);
        function commit(bytes32 commitment) external;
        function commitmentOf(uint256 id, address answerer, bytes calldata tokens, bytes32 salt) external pure returns (bytes32);
        function answer(uint256 id, bytes calldata tokens, bytes32 salt, bytes calldata embedding) external;
        function reclaim(uint256 id) external;
        function withdraw() external;
        function cosineQ15(bytes calldata tokens, bytes calldata embedding) external view returns (int256);
        function owed(address account) external view returns (uint256 amount);
    }

    #[derive(Debug, PartialEq)]
    interface Teller {
        event Told(address indexed asker, uint256 indexed number, bytes prompt, bytes text);
        function tell(bytes calldata prompt, uint32 tokens) external returns (uint256 number);
        function goOn(bytes calldata prompt, uint32 tokens, uint32 temperatureQ16, bytes32 seed) external view returns (bytes memory);
        function textOf(uint256 number) external view returns (bytes memory);
    }

    #[derive(Debug, PartialEq)]
    interface Probe {
        function probe(uint256 kind, address target, uint256 gasLimit, uint256 value, bytes calldata data) external payable returns (bool ok, bytes memory back, uint256 used);
        function keep(uint256 kind, address target, bytes calldata data) external returns (bool ok);
        function chain(address target, bytes calldata head, uint256 place, bytes calldata data) external;
        function fail(address target, bytes calldata data) external;
    }
}
