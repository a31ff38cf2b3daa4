//! Model file, program, conversion, forward pass, memory plan and static cost.
