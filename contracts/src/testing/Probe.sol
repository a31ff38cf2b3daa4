// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// For tests of precompiles: hands calldata on under every kind of call, with a chosen gas limit and value, and says
/// what came back instead of failing.
contract Probe {
    uint256 public calls;
    bytes32 public last;

    /// @param kind 0 CALL, 1 CALLCODE, 2 DELEGATECALL, 3 STATICCALL
    /// @return ok whether the call succeeded
    /// @return back what it returned or reverted with
    /// @return used gas between before and after, the call itself included
    function probe(uint256 kind, address target, uint256 gasLimit, uint256 value, bytes calldata data)
        public
        payable
        returns (bool ok, bytes memory back, uint256 used)
    {
        bytes memory input = data;
        used = gasleft();
        assembly ("memory-safe") {
            switch kind
            case 0 { ok := call(gasLimit, target, value, add(input, 32), mload(input), 0, 0) }
            case 1 { ok := callcode(gasLimit, target, value, add(input, 32), mload(input), 0, 0) }
            case 2 { ok := delegatecall(gasLimit, target, add(input, 32), mload(input), 0, 0) }
            default { ok := staticcall(gasLimit, target, add(input, 32), mload(input), 0, 0) }
        }
        used -= gasleft();
        assembly ("memory-safe") {
            back := mload(0x40)
            mstore(back, returndatasize())
            returndatacopy(add(back, 32), 0, returndatasize())
            mstore(0x40, add(back, and(add(returndatasize(), 63), not(31))))
        }
    }

    /// The same, and remembers what came back, so that a later transaction can depend on it.
    function keep(uint256 kind, address target, bytes calldata data) external returns (bool ok) {
        bytes memory back;
        (ok, back,) = probe(kind, target, gasleft(), 0, data);
        ++calls;
        last = keccak256(abi.encode(last, ok, back));
    }

    /// Calls a model twice, the second input being made of the first answer.
    function chain(address target, bytes calldata head, uint256 place, bytes calldata data) external {
        bytes memory input = data;
        for (uint256 i = 0; i < 2; ++i) {
            (bool ok, bytes memory back) = target.call(bytes.concat(head, input));
            require(ok, "model");
            last = keccak256(abi.encode(last, back));
            // One byte of the next input is a bit of this answer.
            input[place] = bytes1(uint8(last[0]) & 1);
        }
        ++calls;
    }

    /// Fails after the work is done.
    function fail(address target, bytes calldata data) external {
        (bool ok,) = target.call(data);
        calls += ok ? 1 : 2;
        revert("after");
    }
}
