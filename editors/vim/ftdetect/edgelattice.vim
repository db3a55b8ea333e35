autocmd BufRead,BufNewFile *.policy setfiletype edgelattice
