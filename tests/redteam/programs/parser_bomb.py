# attack: source that the parser cannot stomach
# expect: SyntaxError
x = @NESTED@
