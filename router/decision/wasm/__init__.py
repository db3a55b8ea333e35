"""A compiled policy as one WebAssembly module: `module.policy_module` makes it, `abi` says what goes in and comes out.

`engine` holds plan and decide, written in a small, typed part of Python (`language`) that `compiler` turns into
WebAssembly and `binary` writes down; `image` lays a policy out in the module's memory. The code is the same for every
policy: no text of a policy is ever code.
"""
