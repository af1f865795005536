%% Given to a node under test with -eval (comments and line ends are taken out first).
%% Reads "ID EXPRESSIONS." lines from standard input and prints "@result@ ID VALUE".
User = whereis(user),
Evaluate = fun(Text) ->
    try
        {ok, Tokens, _} = erl_scan:string(Text),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        {value, Value, _} = erl_eval:exprs(Expressions, []),
        Value
    catch Class:Reason -> {'EXIT', {Class, Reason}}
    end
end,
Loop = fun Loop() ->
    case io:get_line(User, "") of
        Line when is_list(Line) ->
            [Id, Text] = string:split(Line, " "),
            %% A process for each, so that an expression that hangs does not stop the next.
            spawn(fun() -> io:format(User, "@result@ ~s ~0p~n", [Id, Evaluate(Text)]) end),
            Loop();
        %% The test has ended, however it did; so does the node.
        _ -> halt(0)
    end
end,
%% Apart from the process that -eval runs in, which must return for the boot to be complete.
spawn(fun() ->
    group_leader(User, self()),
    io:format(User, "@result@ ready ~s~n", [node()]),
    Loop()
end).
