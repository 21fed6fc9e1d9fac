"""The Jinja template that exported tokenizers carry, so that others render what we trained on.

It renders conversations of system, user and assistant turns as Qwen3's own template does, and
raises where that one would go on to tools, which ndtrain does not train. `chat.py` is the same
in Python. The switch `enable_thinking=false` closes the think block in the generation prompt.
"""

QWEN3_TEMPLATE = """\
{%- if tools %}{{ raise_exception('this template does not render tools') }}{% endif -%}
{%- set last = namespace(query=messages | length - 1) -%}
{%- for message in messages -%}
    {%- if message.role not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception('unknown role: ' ~ message.role) -}}
    {%- endif -%}
    {%- if message.content is not string -%}
        {{- raise_exception('content must be a string') -}}
    {%- endif -%}
    {%- set is_response = message.content.startswith('<tool_response>')
                          and message.content.endswith('</tool_response>') -%}
    {%- if message.role == 'user' and not is_response -%}
        {%- set last.query = loop.index0 -%}
    {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- set content = message.content -%}
    {%- if message.role == 'assistant' -%}
        {%- set reasoning = '' -%}
        {%- if message.reasoning_content is string -%}
            {%- set reasoning = message.reasoning_content -%}
        {%- elif '</think>' in content -%}
            {%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {%- if loop.index0 > last.query and (loop.last or reasoning) -%}
            {%- set block = '<think>\\n' ~ reasoning.strip('\\n') ~ '\\n</think>\\n\\n' -%}
            {%- set content = block ~ content.lstrip('\\n') -%}
        {%- endif -%}
    {%- endif -%}
    {{- '<|im_start|>' ~ message.role ~ '\\n' -}}
    {{- content ~ '<|im_end|>' -}}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}
        {{- '<think>\\n\\n</think>\\n\\n' -}}
    {%- endif -%}
{%- endif -%}
"""
