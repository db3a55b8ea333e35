" Vim syntax of edgelattice policies, first edition. docs/how-to/editors-and-shells.md says how to install it;
" tests/router/policy/test_editor_syntax.py holds its words against the grammar's.

if exists("b:current_syntax")
  finish
endif

" Names may hold dashes: `half-life` is one word, and so is `fra-2`.
setlocal iskeyword=@,48-57,_,-

syntax keyword policyStatement edition region group zone health route rule never test
syntax keyword policyLine at endpoint tls weight capacity avoid drain country continent asn demand path for
syntax keyword policyLine probe expect containing every timeout latency errors saturation oldest above below over samples
syntax keyword policyLine fail recover after cooldown probation damp unknown as
syntax keyword policyLine when during share by stick spill panic retry budget methods hedge cache off stale serves outside
syntax keyword policyLine given set step repeat
syntax keyword policyTier primary secondary tertiary tier nearest any of to otherwise deny serve
syntax keyword policyOperator and or not in present
syntax keyword policyField host method header query cookie upgrade port sni jwt ip client users site location

syntax match policyNumber /\<\d[0-9.]*\%(us\|ms\|s\|m\|h\|rps\|%\)\?/
syntax match policyAddress /\<\d\{1,3}\%(\.\d\{1,3}\)\{3}\%(\/\d\+\|:\d\+\)\?/
syntax match policyAddress /\[[0-9A-Fa-f:.]\+\]:\d\+/
syntax region policyString start=/"/ end=/"/ oneline
syntax match policyComment /#.*$/ contains=policyTodo
syntax keyword policyTodo contained TODO FIXME
syntax region policyBlock start=/{/ end=/}/ transparent fold

highlight default link policyStatement Statement
highlight default link policyLine Keyword
highlight default link policyTier Type
highlight default link policyOperator Operator
highlight default link policyField Identifier
highlight default link policyNumber Number
highlight default link policyAddress Constant
highlight default link policyString String
highlight default link policyComment Comment
highlight default link policyTodo Todo

setlocal commentstring=#\ %s
setlocal formatprg=edgelattice\ policy\ fmt\ -
let b:current_syntax = "edgelattice"
