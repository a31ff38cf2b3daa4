// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;
import {IInference, INFERENCE, Sampling} from "../IInference.sol";
import {Hyperion} from "../Hyperion.sol";

/// @title Opens for whoever shows an image that a classifier reads as the wanted digit, each image once.
/// @notice The model is fixed by its id, hence by its weights: every node reads an image alike, for ever.
/// An image is public once it is shown and cannot be shown again, by anyone. Whoever copies one out of a pending
/// transaction spends it and enters in the other's place; the other has to show another image. Two images that
/// differ in one pixel are two: the gate counts images, not drawings.
contract DigitGate {
    /// Pixels of an image, one i32 in Q16 each.
    uint256 public constant PIXELS = 64;
    /// The brightest pixel, 1 in Q16.
    int32 public constant PIXEL_MAX = 1 << 16;

    /// The classifier.
    bytes32 public immutable modelId;
    /// The digit that opens, 0 to 9.
    uint8 public immutable digit;

    /// How many have entered.
    uint256 public entered;
    /// The number under which someone first entered; never zero for who has entered.
    mapping(address visitor => uint256 number) public ticketOf;
    /// Who showed an image, by the keccak-256 of its bytes; zero if nobody has.
    mapping(bytes32 imageHash => address visitor) public shownBy;

    /// `visitor` entered as number `number` with this image.
    event Entered(address indexed visitor, uint256 indexed number, bytes32 imageHash);

    error NotADigit(uint8 got);
    error NotAnImage(uint256 gotBytes, uint256 wantBytes);
    error NotAPixel(uint256 index, int32 got, int32 max);
    error ImageShown(bytes32 imageHash, address by);
    error WrongDigit(uint256 got, uint256 want);

    constructor(bytes32 modelId_, uint8 digit_) {
        if (digit_ > 9) revert NotADigit(digit_);
        modelId = modelId_;
        digit = digit_;
    }

    /// Enters with an image.
    /// @param pixels 64 little-endian i32 in Q16, row by row, each 0 to 1.
    /// @return number how many have entered now, never zero
    function enter(bytes calldata pixels) external returns (uint256 number) {
        bytes32 imageHash = keccak256(pixels);
        address before = shownBy[imageHash];
        if (before != address(0)) revert ImageShown(imageHash, before);
        uint256 seen = read(pixels);
        if (seen != digit) revert WrongDigit(seen, digit);
        shownBy[imageHash] = msg.sender;
        number = ++entered;
        if (ticketOf[msg.sender] == 0) ticketOf[msg.sender] = number;
        emit Entered(msg.sender, number, imageHash);
    }

    /// What the classifier reads in an image.
    /// @return the digit, 0 to 9
    function read(bytes calldata pixels) public view returns (uint256) {
        // More rows would be more images in one call, and numbers outside the range are no picture of anything.
        if (pixels.length != 4 * PIXELS) revert NotAnImage(pixels.length, 4 * PIXELS);
        bytes memory image = pixels;
        for (uint256 i = 0; i < PIXELS; ++i) {
            int32 pixel = Hyperion.i32(image, i);
            if (pixel < 0 || pixel > PIXEL_MAX) revert NotAPixel(i, pixel, PIXEL_MAX);
        }
        Sampling memory none; // classifiers sample nothing
        (bytes memory logits,) = IInference(INFERENCE).infer(modelId, image, none, 0);
        return Hyperion.argmax(logits);
    }
}
